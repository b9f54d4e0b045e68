"""Everything about runs that changes while they go on, beside their networks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from alignonce.experiments.training.engine import Engine
from alignonce.experiments.training.learner import Measured
from alignonce.experiments.training.metrics import Measurement, Metrics, angle_deg
from alignonce.experiments.training.resuming import ResumePoint, ResumePoints, under

Status = Literal["done", "diverged", "interrupted"]


@dataclass
class Run:
    """A run between two steps.

    `order` draws the order of the examples; `order_before` is its state before it drew that of the present
    epoch, `losses` are those of that epoch. `tests` are the newest. `ended` is the step at which the run
    ended before the others that learn with it, if it did.
    """

    order: torch.Generator
    metrics: Metrics
    status: Status = "done"
    ended: int | None = None
    order_before: Tensor = field(default_factory=lambda: torch.empty(0))
    losses: list[float] = field(default_factory=list)
    tests: Mapping[str, float] = field(default_factory=dict)

    def end(self, status: Status, step: int) -> None:
        """Note how the run ended, and where."""
        self.status, self.ended = status, step

    def take_losses(self, values: Sequence[float], first: int, steps_per_epoch: int) -> None:
        """Note the losses from step `first` on, up to one that is not finite, which ends the run."""
        good = next((i for i, value in enumerate(values) if not math.isfinite(value)), len(values))
        self.metrics.extend(
            [
                Measurement(at, at / steps_per_epoch, "step_loss", "", value)
                for at, value in enumerate(values[: good + 1], start=first)
            ]
        )
        self.losses.extend(values)
        if good < len(values):
            self.end("diverged", first + good)

    def take_measures(self, step: int, steps_per_epoch: int, measured: Measured, seconds: float) -> None:
        """Note what was measured of the network as it is now."""
        self.tests = measured.tests
        rows = [(name, "", value) for name, value in measured.tests.items()]
        for layer, cosine in measured.cosines.items():
            rows += [("cosine", layer, cosine), ("angle_deg", layer, angle_deg(cosine))]
        self.note(step, steps_per_epoch, [*rows, ("seconds", "", seconds)])

    def finish_epoch(self, step: int, steps_per_epoch: int, scores: Mapping[str, float]) -> None:
        """Note the means over an epoch."""
        means = {"loss": sum(self.losses) / len(self.losses), **scores}
        self.note(step, steps_per_epoch, [(f"train_{name}", "", mean) for name, mean in means.items()])

    def note(self, step: int, steps_per_epoch: int, rows: Iterable[tuple[str, str, float]]) -> None:
        """Write measurements down."""
        self.metrics.extend([Measurement(step, step / steps_per_epoch, *row) for row in rows])


@dataclass
class RunState:
    """Runs that go on step by step, together.

    `step` counts the updates made, `epoch` the whole passes through the examples. `losses` are those of each
    run that are still on the device, `scores` the sums of the present epoch, as `Learner.step` gives them.
    """

    runs: list[Run]
    step: int = 0
    epoch: int = 0
    losses: list[Tensor] = field(default_factory=list)
    scores: dict[str, Tensor] = field(default_factory=dict)

    def going_on(self) -> list[tuple[int, Run]]:
        """The runs that have not ended, with their places."""
        return [(i, run) for i, run in enumerate(self.runs) if run.status == "done"]

    def begin_epoch(self) -> None:
        """Forget what the last epoch gave."""
        self.scores = {}
        for run in self.runs:
            run.losses = []

    def draw_order(self, train_size: int) -> Tensor:
        """Draw the order of the examples of an epoch, as `Learner.step` takes them."""
        for run in self.runs:
            run.order_before = run.order.get_state()
        orders = [torch.randperm(train_size, generator=run.order) for run in self.runs]
        return torch.stack(orders) if len(orders) > 1 else orders[0]

    def add(self, losses: Tensor, scores: Mapping[str, Tensor]) -> None:
        """Note what a step gave."""
        self.step += 1
        self.losses.append(losses)
        for name, score in scores.items():
            self.scores[name] = self.scores[name] + score if name in self.scores else score

    def all_scores(self, engine: Engine) -> dict[str, Tensor]:
        """The scores of all processes, which must all call this, (runs,)."""
        return {n: engine.mean(v.double()).reshape(-1) * engine.processes for n, v in self.scores.items()}

    def point(
        self, index: int, state: tuple[dict[str, Tensor], list[dict[str, Any]]], engine: Engine
    ) -> ResumePoint:
        """Make a resume point; all processes must call this.

        Args:
            index: of the run.
            state: of its network, from `Learner.state`.
            engine: what the run is computed with.

        Returns:
            The point, in each process the same.
        """
        run, (tensors, optimizer) = self.runs[index], state
        tensors |= {
            f"score/{name}": value[index].cpu().clone() for name, value in self.all_scores(engine).items()
        }
        facts = {
            "epoch": self.epoch,
            "processes": engine.processes,
            "status": run.status,
            "ended": run.ended,
            "losses": run.losses,
            "optimizer": optimizer,
            "precision": engine.fabric.strategy.precision.state_dict(),
            "metrics": list(run.metrics),
        }
        return ResumePoint(self.step, tensors | {"order": run.order_before}, facts)

    def restore(self, points: Sequence[ResumePoint], engine: Engine) -> None:
        """Go on from resume points; all processes must call this.

        Args:
            points: of all the runs, after one step.
            engine: what the runs are computed with now.
        """
        # What all processes together have counted so far goes on with the first of them.
        share = 1 if engine.is_first else 0
        scores = [under("score/", point.tensors) for point in points]
        for name in scores[0]:
            sums = torch.stack([own[name] for own in scores]) if len(scores) > 1 else scores[0][name]
            self.scores[name] = sums.to(engine.device) * share
        self.step, self.epoch = points[0].step, points[0].facts["epoch"]
        engine.fabric.strategy.precision.load_state_dict(points[0].facts["precision"])
        for run, point in zip(self.runs, points, strict=True):
            run.order.set_state(point.tensors["order"])
            run.losses = list(point.facts["losses"])
            # Points of earlier versions have no status: a run by itself that had ended wrote none.
            run.status, run.ended = point.facts.get("status", "done"), point.facts.get("ended")
            run.metrics.extend(Measurement(*row) for row in point.facts["metrics"])
            run.tests = {row.metric: row.value for row in run.metrics if row.metric.startswith("test_")}


def common_points(resume: Sequence[ResumePoints]) -> list[ResumePoint] | None:
    """Read the newest points of runs that learn together, all after the same step.

    Args:
        resume: of each run.

    Returns:
        One for each run; None if they have none in common.
    """
    step: int | None = None
    while True:
        points = [one.newest(step) for one in resume]
        found = [point for point in points if point is not None]
        if len(found) < len(points):
            return None
        if len({point.step for point in found}) == 1:
            return found
        step = min(point.step for point in found)
