"""Training runs under learning rules. The loop is in `train_runs`, to be read from top to bottom.

A step of training is `OneNetwork.step`; small runs that share a shape learn at once by `Stack.step`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import fmean
from typing import NamedTuple

import torch
from torch import nn

from alignonce.diagnostics import Row, Tracker
from alignonce.experiments.config.devices import device_name
from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.config.schedules import rate_factor
from alignonce.experiments.config.seeds import derived_seed
from alignonce.experiments.tasks import Task
from alignonce.experiments.tasks.images import as_pixels, evaluate
from alignonce.experiments.training.checkpoints import checkpoint_steps
from alignonce.experiments.training.engine import Engine
from alignonce.experiments.training.learner import Learner
from alignonce.experiments.training.metrics import Metrics
from alignonce.experiments.training.one_network import OneNetwork, build_optimizer
from alignonce.experiments.training.randomness import own_randomness
from alignonce.experiments.training.resuming import ResumePoints
from alignonce.experiments.training.run_state import Run, RunState, Status, common_points
from alignonce.experiments.training.stopping import StopRequest

__all__ = [
    "Progress", "Status", "TrainingResult", "as_pixels", "build_optimizer", "evaluate", "train", "train_runs",
]  # fmt: skip

# Losses stay on the device until this many have come together: asking a GPU for each one would stall it.
STEPS_PER_CHECK = 20
# Most of what a fixed feedback weight does to alignment happens early.
EARLY_EPOCHS = (1 / 8, 1 / 4, 1 / 2)


class Progress(NamedTuple):
    """How far runs are: steps taken, steps in all, and the newest test accuracy (None before the first).

    Of several runs it is the mean accuracy of those that have not diverged.
    """

    step: int
    total_steps: int
    test_accuracy: float | None


@dataclass(frozen=True)
class TrainingResult:
    """What came out of a run.

    `step` counts the updates made. In a diverged run it is the first step whose loss was not finite, and the
    network is meaningless. In an interrupted run the network is as it was at the interruption. `diagnostics`
    are the tracker's rows.
    """

    status: Status
    step: int
    total_steps: int
    seconds: float
    device: str
    metrics: Metrics
    model: nn.Module
    diagnostics: Sequence[Row] = ()


def train(
    config: RunConfig,
    task: Task,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    *,
    on_checkpoint: Callable[[int, nn.Module], None] = lambda step, model: None,
    tracker: Tracker | None = None,
    metrics: Metrics | None = None,
    engine: Engine | None = None,
    resume: ResumePoints | None = None,
    steps_per_check: int = STEPS_PER_CHECK,
) -> TrainingResult:
    """Train a network as configured, and measure it on the way.

    Initial forward weights and the order of the batches depend on the seed, never on the learning rule. A
    loss that is NaN or infinite ends the run as `diverged`. SIGINT (Ctrl-C), SIGTERM and SIGUSR1 end it
    as `interrupted`, after the present step; a second one at once. Both keep what was measured until then.

    Several processes each call this and get the same result; only the first calls `on_progress` and
    `on_checkpoint`.

    Args:
        config: the run.
        task: what is to be learnt.
        on_progress: called every few steps.
        on_checkpoint: called with the step and the network at each checkpoint of the configuration.
        tracker: called before the first step and after each; what is learnt is the same to the bit.
        metrics: where measurements go; None makes a place for them.
        engine: what to compute with; None sets it up as configured.
        resume: the run's resume points: it goes on from the newest and writes new ones. None writes none.
        steps_per_check: steps between looks at whether losses are finite.

    Returns:
        The trained network and its measurements.

    Raises:
        ValueError: a tracker is given for a network that is spread over processes.
    """
    engine = engine or Engine(config)
    if tracker and engine.is_sharded:
        raise ValueError("track: measurements during training are not available with strategy fsdp")
    (result,) = train_runs(
        OneNetwork(config, task, engine), [config], task.train_size, engine, on_progress,
        on_checkpoint=lambda run, step, network: on_checkpoint(step, network),
        tracker=tracker,
        metrics=[Metrics() if metrics is None else metrics],
        resume=[resume] if resume else None,
        steps_per_check=steps_per_check,
    )  # fmt: skip
    return result


class _Stopped(Exception):
    """SIGINT, SIGTERM or SIGUSR1 came, and the step after which the runs were to stop is complete."""


class _NoneLeft(Exception):
    """All runs have diverged."""


def train_runs(
    learner: Learner,
    configs: Sequence[RunConfig],
    train_size: int,
    engine: Engine,
    on_progress: Callable[[Progress], None],
    *,
    on_checkpoint: Callable[[int, int, nn.Module], None],
    metrics: Sequence[Metrics],
    tracker: Tracker | None = None,
    resume: Sequence[ResumePoints] | None = None,
    steps_per_check: int = STEPS_PER_CHECK,
) -> list[TrainingResult]:
    """Train one run, or several at once that differ in seed and learning rule only; see `train`.

    A run that diverges ends there, and the others go on. The clock is common.

    Args:
        learner: the runs' networks.
        configs: the runs.
        train_size: training examples in an epoch.
        engine: what the learner computes with.
        on_progress: called every few steps.
        on_checkpoint: called with the run's place, the step and the network at each checkpoint.
        metrics: where the measurements of each run go.
        tracker: called before the first step and after each, with the network of a run by itself.
        resume: the resume points of each run.
        steps_per_check: as in `train`.

    Returns:
        The trained networks and their measurements, in the order of `configs`.
    """
    shared = configs[0]
    steps_per_epoch = math.ceil(train_size / shared.batch_size)
    total_steps = steps_per_epoch * shared.epochs
    checkpoints = checkpoint_steps(shared.checkpoints, total_steps)
    warmup_steps = int(shared.warmup * total_steps)
    early = {math.ceil(part * steps_per_epoch) for part in EARLY_EPOCHS} - {steps_per_epoch}
    # Drawn on the CPU: every device sees the same batches.
    orders = [torch.Generator().manual_seed(derived_seed(config.seed, "batches")) for config in configs]
    state = RunState([Run(order, place) for order, place in zip(orders, metrics, strict=True)])
    start = time.perf_counter()

    def report() -> None:
        known = [run.tests["test_accuracy"] for _, run in state.going_on() if "test_accuracy" in run.tests]
        if engine.is_first:
            on_progress(Progress(state.step, total_steps, fmean(known) if known else None))

    def collect_losses() -> None:
        """Fetch the losses that are still on the device; end the runs where one is not finite."""
        count = len(state.losses)
        values = engine.mean(torch.stack(state.losses, dim=-1)).view(-1, count).tolist() if count else []
        state.losses.clear()
        for i, run in state.going_on() if count else ():
            run.take_losses(values[i], state.step - count + 1, steps_per_epoch)
        if not state.going_on():
            raise _NoneLeft

    def measure() -> None:
        """Measure the networks as they are now: on test data, and their alignment layer by layer."""
        measured = learner.measure()
        seconds = time.perf_counter() - start
        for i, run in state.going_on():
            run.take_measures(state.step, steps_per_epoch, measured[i], seconds)

    def look() -> None:
        """Let the tracker and the checkpoints see the networks, unless they are known to be broken by now."""
        if state.step in checkpoints or (tracker and tracker.due(state.step)):
            collect_losses()
            report()
        if tracker:
            tracker(state.step, learner.network(0))
        if state.step in checkpoints:
            for i, _ in state.going_on():
                network = learner.network(i)
                if engine.is_first:
                    on_checkpoint(i, state.step, network)

    def save_or_stop() -> None:
        """Write resume points if it is time for them, and stop if that was asked for."""
        if engine.processes > 1 and state.losses:
            return  # they decide together, which takes time: only where they have just exchanged losses
        stopping = engine.any(stop.asked)
        if resume and (stopping or engine.any(any(points.due(state.step) for points in resume))):
            collect_losses()
            more = {"seconds": time.perf_counter() - start, "diagnostics": tracker.rows if tracker else []}
            for i, points in enumerate(resume):
                point = state.point(i, learner.state(i), engine)
                if engine.is_first:
                    points.write(replace(point, facts={**point.facts, **more}))
        if stopping:
            raise _Stopped

    with (
        own_randomness(engine.device, derived_seed(shared.seed, f"noise/{engine.fabric.global_rank}")),
        StopRequest() as stop,
    ):
        try:
            points = common_points(resume) if resume else None
            if points is None:
                measure()
                look()
            else:
                learner.load(points)
                state.restore(points, engine)
                start -= points[0].facts["seconds"]
                if tracker:
                    tracker.rows[:] = [Row(*row) for row in points[0].facts["diagnostics"]]
                collect_losses()
            for epoch in range(state.epoch, shared.epochs):
                state.epoch = epoch
                done = state.step - state.epoch * steps_per_epoch
                if done == 0:
                    state.begin_epoch()
                examples = state.draw_order(train_size).to(engine.device)

                for batch in torch.split(examples, shared.batch_size, dim=-1)[done:]:
                    factor = rate_factor(shared.schedule, state.step, total_steps, warmup_steps)
                    state.add(*learner.step(batch, shared.learning_rate * factor, state.step + 1))
                    if len(state.losses) == steps_per_check:
                        collect_losses()
                        report()
                    if state.step in early:
                        collect_losses()
                        measure()
                    look()
                    save_or_stop()

                collect_losses()
                save_or_stop()
                scores = {name: value.tolist() for name, value in state.all_scores(engine).items()}
                for i, run in state.going_on():
                    means = {name: sums[i] / train_size for name, sums in scores.items()}
                    run.finish_epoch(state.step, steps_per_epoch, means)
                measure()
                report()
            for _, run in state.going_on():
                if not math.isfinite(run.tests.get("test_loss", 0.0)):
                    # The very last step broke the network: no further batch is there to show it.
                    run.end("diverged", state.step)
        except _NoneLeft:
            pass
        except (_Stopped, KeyboardInterrupt) as stopped:
            if engine.processes > 1 and isinstance(stopped, KeyboardInterrupt):
                raise  # the other processes are elsewhere
            with suppress(_NoneLeft):
                collect_losses()
            for _, run in state.going_on():
                run.end("interrupted", state.step)
    seconds = time.perf_counter() - start
    return [
        TrainingResult(
            run.status,
            state.step if run.ended is None else run.ended,
            total_steps,
            seconds,
            device_name(engine.device),
            run.metrics,
            learner.network(i),
            tracker.rows if tracker is not None else (),
        )
        for i, run in enumerate(state.runs)
    ]
