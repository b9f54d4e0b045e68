"""Training one network under one learning rule. The loop is in `train`, to be read from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from alignonce import alignment, evolve
from alignonce.diagnostics import Row, Tracker
from alignonce.experiments.config.devices import device_name
from alignonce.experiments.config.run import RunConfig, TrainingConfig
from alignonce.experiments.config.schedules import rate_factor
from alignonce.experiments.config.seeds import derived_seed
from alignonce.experiments.tasks import Task
from alignonce.experiments.tasks.images import as_pixels, evaluate
from alignonce.experiments.training.checkpoints import checkpoint_steps
from alignonce.experiments.training.engine import Engine
from alignonce.experiments.training.metrics import Measurement, Metrics, angle_deg
from alignonce.experiments.training.resuming import ResumePoints
from alignonce.experiments.training.run_state import RunState, own_randomness
from alignonce.experiments.training.stopping import StopRequest

__all__ = ["Progress", "TrainingResult", "as_pixels", "build_optimizer", "evaluate", "train"]

Status = Literal["done", "diverged", "interrupted"]

# Losses stay on the device until this many have come together: asking a GPU for each one would stall it.
STEPS_PER_CHECK = 20
# Most of what a fixed feedback weight does to alignment happens early.
EARLY_EPOCHS = (1 / 8, 1 / 4, 1 / 2)


class Progress(NamedTuple):
    """How far a run is: steps taken, steps in all, and the newest test accuracy (None before the first)."""

    step: int
    total_steps: int
    test_accuracy: float | None


@dataclass(frozen=True)
class TrainingResult:
    """What came out of a run.

    `step` counts the updates made. In a diverged run it is the first step whose loss was not finite, and the
    network is of no use. In an interrupted run the network is as it was at the interruption. `diagnostics`
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


class _Stopped(Exception):
    """SIGINT, SIGTERM or SIGUSR1 came, and the step after which the run was to stop is complete."""


class _Diverged(Exception):
    def __init__(self, step: int) -> None:
        super().__init__(f"the loss of step {step} is not finite")
        self.step = step


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

    Returns:
        The trained network and its measurements.

    Raises:
        ValueError: a tracker is given for a network that is spread over processes.
    """
    engine = engine or Engine(config)
    if tracker and engine.is_sharded:
        raise ValueError("track: measures during training do not go with strategy fsdp")
    build = partial(task.build_model, config)
    model = build()
    forward = engine.set_up(model)
    task = task.for_run(config, engine.device)
    plain_optimizer = build_optimizer(model, config)
    optimizer = engine.set_up_optimizer(plain_optimizer)
    # Drawn on the CPU: every device sees the same batches.
    order = torch.Generator().manual_seed(derived_seed(config.seed, "batches"))
    run = RunState(model, optimizer, order, Metrics() if metrics is None else metrics, tracker)

    steps_per_epoch = math.ceil(task.train_size / config.batch_size)
    total_steps = steps_per_epoch * config.epochs
    checkpoints = checkpoint_steps(config.checkpoints, total_steps)
    warmup_steps = int(config.warmup * total_steps)
    early = {math.ceil(part * steps_per_epoch) for part in EARLY_EPOCHS} - {steps_per_epoch}
    start = time.perf_counter()
    status: Status = "done"
    losses: list[Tensor] = []

    def learn(batch: Tensor) -> None:
        """Make one step of training."""
        factor = rate_factor(config.schedule, run.step, total_steps, warmup_steps)
        for group in plain_optimizer.param_groups:
            group["lr"] = config.learning_rate * factor
        optimizer.zero_grad()
        for part in engine.parts(batch):
            loss, scores = task.loss(forward, task.batch(part.examples))
            engine.backward(forward, loss, part)
            run.add(part, loss.detach(), scores)
        engine.clip(forward, optimizer)
        optimizer.step()
        run.step += 1
        evolve(model, run.step)
        losses.append(run.take_loss())

    def report() -> None:
        if engine.is_first:
            on_progress(Progress(run.step, total_steps, run.metrics.last("test_accuracy")))

    def collect_losses() -> None:
        """Fetch the losses that are still on the device; raise at the first that is not finite."""
        values = engine.mean(torch.stack(losses)).tolist() if losses else []
        first = run.step - len(values) + 1
        losses.clear()
        for at, value in enumerate(values, start=first):
            run.metrics.extend([Measurement(at, at / steps_per_epoch, "step_loss", "", value)])
            if not math.isfinite(value):
                raise _Diverged(at)
        run.losses.extend(values)

    def measure() -> None:
        """Measure the network as it is now: on test data, and its alignment layer by layer."""
        with engine.fabric.autocast():
            rows = [(name, "", value) for name, value in task.evaluate(model).items()]
        for layer, cosine in alignment(model).items():
            rows += [("cosine", layer, cosine), ("angle_deg", layer, angle_deg(cosine))]
        rows += [("seconds", "", time.perf_counter() - start)]
        run.metrics.extend(Measurement(run.step, run.step / steps_per_epoch, *row) for row in rows)

    def look() -> None:
        """Let the tracker and the checkpoints see the network, unless it is known to be broken by now."""
        if run.step in checkpoints or (tracker and tracker.due(run.step)):
            collect_losses()
            report()
        if tracker:
            tracker(run.step, model)
        if run.step in checkpoints:
            whole = engine.whole(model, build)
            if engine.is_first:
                on_checkpoint(run.step, whole)

    def save_or_stop() -> None:
        """Write a resume point if it is time for one, and stop if that was asked for."""
        if engine.processes > 1 and losses:
            return  # they decide together, which takes time: only where they have just exchanged losses
        stopping = engine.any(stop.asked)
        if resume and (stopping or engine.any(resume.due(run.step))):
            collect_losses()
            point = run.capture(engine, time.perf_counter() - start)
            if engine.is_first:
                resume.write(point)
        if stopping:
            raise _Stopped

    with (
        own_randomness(engine.device, derived_seed(config.seed, f"noise/{engine.fabric.global_rank}")),
        StopRequest() as stop,
    ):
        try:
            point = resume.newest() if resume else None
            if point is None:
                measure()
                look()
            else:
                run.restore(point, engine)
                start -= point.facts["seconds"]
            for epoch in range(run.epoch, config.epochs):
                run.epoch = epoch
                done = run.step - run.epoch * steps_per_epoch
                if done == 0:
                    run.losses, run.scores = [], {}
                run.order_before = order.get_state()
                examples = torch.randperm(task.train_size, generator=order).to(engine.device)

                for batch in torch.split(examples, config.batch_size)[done:]:
                    learn(batch)
                    if len(losses) == STEPS_PER_CHECK:
                        collect_losses()
                        report()
                    if run.step in early:
                        collect_losses()
                        measure()
                    look()
                    save_or_stop()

                collect_losses()
                save_or_stop()
                means = {"loss": sum(run.losses) / len(run.losses)} | run.mean_scores(engine, task.train_size)
                run.metrics.extend(
                    Measurement(run.step, run.step / steps_per_epoch, f"train_{name}", "", mean)
                    for name, mean in means.items()
                )
                measure()
                report()
            if not math.isfinite(run.metrics.last("test_loss") or 0.0):
                # The very last step broke the network: no further batch is there to show it.
                raise _Diverged(run.step)
        except _Diverged as divergence:
            status, run.step = "diverged", divergence.step
        except (_Stopped, KeyboardInterrupt) as stopped:
            if engine.processes > 1 and isinstance(stopped, KeyboardInterrupt):
                raise  # the other processes are elsewhere
            status = "interrupted"
            try:
                collect_losses()
            except _Diverged as divergence:
                status, run.step = "diverged", divergence.step
    seconds = time.perf_counter() - start
    whole = engine.whole(model, build)
    rows = tracker.rows if tracker is not None else ()
    return TrainingResult(
        status, run.step, total_steps, seconds, device_name(engine.device), run.metrics, whole, rows
    )


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Make the optimiser. It sees forward weights only: feedback weights are buffers.

    Args:
        model: the network.
        config: names the optimiser and its settings.

    Returns:
        The optimiser, in its fused form, one call for all weights, where there is one.
    """
    weights, rate, decay = list(model.parameters()), config.learning_rate, config.weight_decay
    if config.optimizer == "adam":
        return torch.optim.Adam(weights, lr=rate, weight_decay=decay, fused=True)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(weights, lr=rate, weight_decay=decay, fused=True)
    # PyTorch has no fused SGD for weights that are spread over processes.
    fused = not any(hasattr(weight, "to_local") for weight in weights)
    return torch.optim.SGD(weights, lr=rate, momentum=config.momentum, weight_decay=decay, fused=fused)
