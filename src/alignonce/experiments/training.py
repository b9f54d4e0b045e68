"""Training one network under one learning rule. The loop is in `train`, to be read from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignonce import alignment, evolve
from alignonce.diagnostics import Row, Tracker
from alignonce.experiments.checkpoints import checkpoint_steps
from alignonce.experiments.config import RunConfig, TrainingConfig
from alignonce.experiments.data.image_data import ImageData
from alignonce.experiments.devices import device_name, pick_device
from alignonce.experiments.metrics import Measurement, Metrics, angle_deg
from alignonce.experiments.models import build_run_model
from alignonce.experiments.seeds import derived_seed

Status = Literal["done", "diverged", "interrupted"]

# Losses stay on the device until this many have come together: asking a GPU for each one would stall it.
STEPS_PER_CHECK = 20
TEST_BATCH = 1000
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
    data: ImageData,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    *,
    on_checkpoint: Callable[[int, nn.Module], None] = lambda step, model: None,
    tracker: Tracker | None = None,
) -> TrainingResult:
    """Train a network as configured, and measure it on the way.

    Initial forward weights and the order of the batches depend on the seed, never on the learning rule. A
    loss that is NaN or infinite ends the run as `diverged`; Ctrl-C ends it as `interrupted`. Both keep what
    was measured until then.

    Args:
        config: the run.
        data: the images and labels.
        on_progress: called every few steps.
        on_checkpoint: called with the step and the network at each checkpoint of the configuration.
        tracker: called before the first step and after each; what is learnt is the same to the bit.

    Returns:
        The trained network and its measurements.
    """
    device = pick_device(config.device)
    train_images, train_labels = data.train_images.to(device), data.train_labels.to(device)
    test_images, test_labels = data.test_images.to(device), data.test_labels.to(device)
    model = build_run_model(config, data.image_shape, data.num_classes, data.mean, data.std).to(device)
    forward = torch.compile(model) if config.compile else model
    optimizer = build_optimizer(model, config)
    # Drawn on the CPU: every device sees the same batches.
    batches = torch.Generator().manual_seed(derived_seed(config.seed, "batches"))

    steps_per_epoch = math.ceil(len(train_labels) / config.batch_size)
    total_steps = steps_per_epoch * config.epochs
    checkpoints = checkpoint_steps(config.checkpoints, total_steps)
    early = {math.ceil(part * steps_per_epoch) for part in EARLY_EPOCHS} - {steps_per_epoch}
    metrics = Metrics()
    start = time.perf_counter()
    status: Status = "done"
    step, epoch = 0, 0.0
    losses: list[Tensor] = []
    epoch_losses: list[float] = []
    epoch_hits = torch.zeros((), dtype=torch.int64, device=device)

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
        """Measure the network as it is now: on the test images, and its alignment layer by layer."""
        test_loss, test_accuracy = evaluate(model, test_images, test_labels)
        rows = [("test_loss", "", test_loss), ("test_accuracy", "", test_accuracy)]
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
            order = torch.randperm(len(train_labels), generator=batches).to(device)
            epoch_losses.clear()
            epoch_hits.zero_()

            for batch in torch.split(order, config.batch_size):
                labels = train_labels[batch]
                logits = forward(as_pixels(train_images[batch]))
                loss = F.cross_entropy(logits, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                evolve(model, step)

                epoch = step / steps_per_epoch
                losses.append(loss.detach())
                epoch_hits += (logits.detach().argmax(dim=1) == labels).sum()
                if len(losses) == STEPS_PER_CHECK:
                    collect_losses()
                    on_progress(Progress(step, total_steps, metrics.last("test_accuracy")))
                if step in early:
                    collect_losses()
                    measure()
                look()

            collect_losses()
            train_loss = sum(epoch_losses) / len(epoch_losses)
            train_accuracy = int(epoch_hits) / len(train_labels)
            metrics.extend(
                [
                    Measurement(step, epoch, "train_loss", "", train_loss),
                    Measurement(step, epoch, "train_accuracy", "", train_accuracy),
                ]
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


def as_pixels(images: Tensor) -> Tensor:
    """Turn stored images into what the networks take.

    Args:
        images: uint8, any shape.

    Returns:
        The same shape, float32 in [0, 1].
    """
    return images.to(torch.float32).div_(255)


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Test a network, in evaluation mode; its mode afterwards is as before.

    Args:
        model: maps pixels in [0, 1] to logits.
        images: uint8, (n, channels, height, width), on the network's device.
        labels: int64, (n,), likewise.

    Returns:
        Mean cross-entropy in nats, and the fraction of right answers.
    """
    was_training = model.training
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=labels.device)
    hits = torch.zeros((), dtype=torch.int64, device=labels.device)
    parts = zip(torch.split(images, TEST_BATCH), torch.split(labels, TEST_BATCH), strict=True)
    for some_images, some_labels in parts:
        logits = model(as_pixels(some_images))
        loss += F.cross_entropy(logits, some_labels, reduction="sum")
        hits += (logits.argmax(dim=1) == some_labels).sum()
    model.train(was_training)
    return float(loss) / len(labels), int(hits) / len(labels)


@torch.no_grad()
def classify(model: nn.Module, images: Tensor) -> Tensor:
    """Let a network classify images, in evaluation mode; its mode afterwards is as before.

    Args:
        model: maps pixels in [0, 1] to logits.
        images: uint8, (n, channels, height, width), anywhere.

    Returns:
        The classes, int64, (n,), on the CPU.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    classes = [
        model(as_pixels(part.to(device))).argmax(dim=1).cpu() for part in torch.split(images, TEST_BATCH)
    ]
    model.train(was_training)
    return torch.cat(classes)


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
