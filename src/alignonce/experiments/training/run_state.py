"""Everything that changes while a run goes on: what a resume point must hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from alignonce.diagnostics import Row, Tracker
from alignonce.experiments.training.engine import Engine, Part
from alignonce.experiments.training.metrics import Measurement, Metrics
from alignonce.experiments.training.resuming import ResumePoint
from alignonce.experiments.training.state import (
    load_model_state,
    load_optimizer_state,
    model_state,
    optimizer_state,
)


@dataclass
class RunState:
    """A run between two steps.

    `step` counts the updates made, `epoch` the whole passes through the examples. `order` draws the order of
    the examples; `order_before` is its state before it drew that of the present epoch. `losses` and `scores`
    are those of the present epoch, `part_losses` those of a step that is being made. Feedback weights, and
    the memory of rules that change them, are part of the model's state.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    order: torch.Generator
    metrics: Metrics
    tracker: Tracker | None = None
    step: int = 0
    epoch: int = 0
    order_before: Tensor = field(default_factory=lambda: torch.empty(0))
    losses: list[float] = field(default_factory=list)
    part_losses: list[Tensor] = field(default_factory=list)
    scores: dict[str, Tensor] = field(default_factory=dict)

    def add(self, part: Part, loss: Tensor, scores: Mapping[str, Tensor]) -> None:
        """Note what a part of a batch gave.

        Args:
            part: the part.
            loss: its mean loss.
            scores: sums over its examples.
        """
        self.part_losses.append(loss if part.weight == 1 else loss * part.weight)
        for name, score in scores.items():
            counted = score if part.weight else torch.zeros_like(score)
            self.scores[name] = self.scores[name] + counted if name in self.scores else counted

    def take_loss(self) -> Tensor:
        """Sum up what the parts of a batch gave.

        Returns:
            The batch's mean loss, or a process's share in it.
        """
        parts, self.part_losses = self.part_losses, []
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum()

    def mean_scores(self, engine: Engine, examples: int) -> dict[str, float]:
        """Average the scores of an epoch; all processes must call this.

        Args:
            engine: what the run is computed with.
            examples: how many there are in an epoch.

        Returns:
            Means by name.
        """
        return {name: float(score) / examples for name, score in self._all_scores(engine).items()}

    def _all_scores(self, engine: Engine) -> dict[str, Tensor]:
        return {name: engine.mean(v.double()) * engine.processes for name, v in self.scores.items()}

    def capture(self, engine: Engine, seconds: float) -> ResumePoint:
        """Copy the state; all processes must call this.

        Args:
            engine: what the run is computed with.
            seconds: time that the run has taken so far.

        Returns:
            The state, in each process the same.
        """
        optimizer, groups = optimizer_state(self.optimizer)
        tensors = {f"model/{name}": value for name, value in model_state(self.model).items()}
        tensors |= {f"optimizer/{name}": value for name, value in optimizer.items()}
        tensors |= {f"score/{name}": value.cpu() for name, value in self._all_scores(engine).items()}
        tensors |= {f"random/{name}": value for name, value in _random_states(engine).items()}
        tensors["order"] = self.order_before
        facts = {
            "epoch": self.epoch,
            "seconds": seconds,
            "processes": engine.processes,
            "losses": self.losses,
            "optimizer": groups,
            "precision": engine.fabric.strategy.precision.state_dict(),
            "metrics": list(self.metrics),
            "diagnostics": self.tracker.rows if self.tracker else [],
        }
        return ResumePoint(self.step, tensors, facts)

    def restore(self, point: ResumePoint, engine: Engine) -> None:
        """Go on from a resume point; all processes must call this.

        Args:
            point: from `capture` of the same run, perhaps on another number of processes.
            engine: what the run is computed with now.

        Raises:
            ValueError: the number of processes is another, and what is learnt depends on it.
        """
        facts = point.facts
        if facts["processes"] != engine.processes and _has_batch_statistics(self.model):
            raise ValueError(
                f"resume: the run was on {facts['processes']} processes, now there are {engine.processes}; "
                "its network has norm layers with statistics over a process's part of a batch and would "
                "learn otherwise: go on with as many processes as before"
            )
        load_model_state(self.model, _under("model/", point.tensors))
        load_optimizer_state(self.optimizer, _under("optimizer/", point.tensors), facts["optimizer"])
        # What all processes together have counted so far goes on with the first of them.
        share = 1 if engine.is_first else 0
        scores = _under("score/", point.tensors)
        self.scores = {name: score.to(engine.device) * share for name, score in scores.items()}
        _restore_random_states(engine, _under("random/", point.tensors))
        self.order.set_state(point.tensors["order"])
        self.step, self.epoch, self.losses = point.step, facts["epoch"], list(facts["losses"])
        engine.fabric.strategy.precision.load_state_dict(facts["precision"])
        self.metrics.extend(Measurement(*row) for row in facts["metrics"])
        if self.tracker:
            self.tracker.rows[:] = [Row(*row) for row in facts["diagnostics"]]


@contextmanager
def own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Within the context, the global random state, which dropout draws from, depends on the seed alone.

    Args:
        device: whose random state counts, besides the CPU's.
        seed: the seed.
    """
    generators = _generators(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for generator in generators.values():
            generator.manual_seed(seed)
        yield


def _generators(device: torch.device) -> dict[str, torch.Generator]:
    generators = {"cpu": torch.default_generator}
    if device.type == "cuda":
        generators["cuda"] = torch.cuda.default_generators[device.index or 0]
    return generators


def _random_states(engine: Engine) -> dict[str, Tensor]:
    """By `KIND/PROCESS`: the global random states of all processes."""
    states: dict[str, Tensor] = {}
    for kind, generator in _generators(engine.device).items():
        each = engine.from_each(generator.get_state())
        states |= {f"{kind}/{rank}": state.cpu() for rank, state in enumerate(each)}
    return states


def _restore_random_states(engine: Engine, states: Mapping[str, Tensor]) -> None:
    for kind, generator in _generators(engine.device).items():
        # A process more than there were, or another device, keeps the state that its seed gives.
        state = states.get(f"{kind}/{engine.fabric.global_rank}")
        if state is not None:
            generator.set_state(state)


def _has_batch_statistics(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
