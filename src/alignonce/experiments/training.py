"""Training one network under one learning rule. The loop is in `train`, to be read from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from alignonce import alignment, evolve
from alignonce.diagnostics import Row, Tracker
from alignonce.experiments.checkpoints import checkpoint_steps
from alignonce.experiments.config import RunConfig, TrainingConfig
from alignonce.experiments.data.image_data import ImageData
from alignonce.experiments.devices import device_name, pick_device
from alignonce.experiments.metrics import Measurement, Metrics, angle_deg
from alignonce.experiments.seeds import derived_seed
from alignonce.experiments.tasks import ImageClassification, Task
from alignonce.experiments.tasks.images import as_pixels, evaluate

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


class _Diverged(Exception):
    def __init__(self, step: int) -> None:
        super().__init__(f"the loss of step {step} is not finite")
        self.step = step


def train(
    config: RunConfig,
    data: ImageData | Task,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    *,
    on_checkpoint: Callable[[int, nn.Module], None] = lambda step, model: None,
    tracker: Tracker | None = None,
    metrics: Metrics | None = None,
) -> TrainingResult:
    """Train a network as configured, and measure it on the way.

    Initial forward weights and the order of the batches depend on the seed, never on the learning rule. A
    loss that is NaN or infinite ends the run as `diverged`; Ctrl-C ends it as `interrupted`. Both keep what
    was measured until then.

    Args:
        config: the run.
        data: what is to be learnt: images and labels, or any other task.
        on_progress: called every few steps.
        on_checkpoint: called with the step and the network at each checkpoint of the configuration.
        tracker: called before the first step and after each; what is learnt is the same to the bit.
        metrics: where measurements go; None makes a place for them.

    Returns:
        The trained network and its measurements.
    """
    device = pick_device(config.device)
    task: Task = ImageClassification(data) if isinstance(data, ImageData) else data
    model = task.build_model(config).to(device)
    task = task.to(device)
    forward = torch.compile(model) if config.compile else model
    optimizer = build_optimizer(model, config)
    # Drawn on the CPU: every device sees the same batches.
    batches = torch.Generator().manual_seed(derived_seed(config.seed, "batches"))

    steps_per_epoch = math.ceil(task.train_size / config.batch_size)
    total_steps = steps_per_epoch * config.epochs
    checkpoints = checkpoint_steps(config.checkpoints, total_steps)
    early = {math.ceil(part * steps_per_epoch) for part in EARLY_EPOCHS} - {steps_per_epoch}
    metrics = Metrics() if metrics is None else metrics
    start = time.perf_counter()
    status: Status = "done"
    step, epoch = 0, 0.0
    losses: list[Tensor] = []
    epoch_losses: list[float] = []
    epoch_scores: dict[str, Tensor] = {}

    def collect_losses() -> None:
        """Fetch the losses that are still on the device; raise at the first that is not finite."""
        values = torch.stack(losses).tolist() if losses else []
        first = step - len(values) + 1
        losses.clear()
        for at, value in enumerate(values, start=first):
            metrics.extend([Measurement(at, at / steps_per_epoch, "step_loss", "", value)])
            if not math.isfinite(value):
                raise _Diverged(at)
        epoch_losses.extend(values)

    def measure() -> None:
        """Measure the network as it is now: on test data, and its alignment layer by layer."""
        rows = [(name, "", value) for name, value in task.evaluate(model).items()]
        for layer, cosine in alignment(model).items():
            rows += [("cosine", layer, cosine), ("angle_deg", layer, angle_deg(cosine))]
        rows += [("seconds", "", time.perf_counter() - start)]
        metrics.extend([Measurement(step, epoch, *row) for row in rows])

    def look() -> None:
        """Let the tracker and the checkpoints see the network, unless it is known to be broken by now."""
        if step in checkpoints or (tracker and tracker.due(step)):
            collect_losses()
            on_progress(Progress(step, total_steps, metrics.last("test_accuracy")))
        if tracker:
            tracker(step, model)
        if step in checkpoints:
            on_checkpoint(step, model)

    try:
        measure()
        look()
        for _ in range(config.epochs):
            order = torch.randperm(task.train_size, generator=batches).to(device)
            epoch_losses.clear()
            epoch_scores.clear()

            for examples in torch.split(order, config.batch_size):
                loss, scores = task.loss(forward, task.batch(examples))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                evolve(model, step)

                epoch = step / steps_per_epoch
                losses.append(loss.detach())
                for name, score in scores.items():
                    epoch_scores[name] = epoch_scores.get(name, 0) + score
                if len(losses) == STEPS_PER_CHECK:
                    collect_losses()
                    on_progress(Progress(step, total_steps, metrics.last("test_accuracy")))
                if step in early:
                    collect_losses()
                    measure()
                look()

            collect_losses()
            means = {"loss": sum(epoch_losses) / len(epoch_losses)}
            means |= {name: float(score) / task.train_size for name, score in epoch_scores.items()}
            metrics.extend(
                Measurement(step, epoch, f"train_{name}", "", mean) for name, mean in means.items()
            )
            measure()
            on_progress(Progress(step, total_steps, metrics.last("test_accuracy")))
        if not math.isfinite(metrics.last("test_loss") or 0.0):
            # The very last step broke the network: no further batch is there to show it.
            raise _Diverged(step)
    except _Diverged as divergence:
        status, step = "diverged", divergence.step
    except KeyboardInterrupt:
        status = "interrupted"
        try:
            collect_losses()
        except _Diverged as divergence:
            status, step = "diverged", divergence.step
    seconds = time.perf_counter() - start
    rows = tracker.rows if tracker is not None else ()
    return TrainingResult(status, step, total_steps, seconds, device_name(device), metrics, model, rows)


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Make the optimiser. It sees forward weights only: feedback weights are buffers.

    Args:
        model: the network.
        config: names the optimiser and its settings.

    Returns:
        The optimiser, in its fused form: one call for all weights.
    """
    weights, rate, decay = list(model.parameters()), config.learning_rate, config.weight_decay
    if config.optimizer == "adam":
        return torch.optim.Adam(weights, lr=rate, weight_decay=decay, fused=True)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(weights, lr=rate, weight_decay=decay, fused=True)
    return torch.optim.SGD(weights, lr=rate, momentum=config.momentum, weight_decay=decay, fused=True)
