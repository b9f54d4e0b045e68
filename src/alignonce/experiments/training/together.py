"""Training many small runs at once: those that share a shape learn in one program."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor, nn

from alignonce.experiments.config.devices import device_name, pick_device
from alignonce.experiments.config.rule_specs import parse_rule
from alignonce.experiments.config.run import RunConfig, TrainingConfig
from alignonce.experiments.config.seeds import derived_seed
from alignonce.experiments.data.image_data import ImageData
from alignonce.experiments.tasks import Task
from alignonce.experiments.tasks.images import as_pixels
from alignonce.experiments.training.checkpoints import checkpoint_steps
from alignonce.experiments.training.loop import (
    EARLY_EPOCHS,
    STEPS_PER_CHECK,
    Progress,
    Status,
    TrainingResult,
    build_optimizer,
)
from alignonce.experiments.training.metrics import Measurement, Metrics, angle_deg
from alignonce.experiments.training.stacked import StackedNetworks
from alignonce.experiments.training.stopping import StopRequest

# Test images times networks that are computed at once, so that testing takes no more memory than training.
_TESTED_AT_ONCE = 10_000

# What the loop below knows to do. A run that asks for anything else trains by itself.
_NETWORKS = ("mlp", "resnet")
_KNOWN_SETTINGS = {
    "model", "depth", "width", "init", "shortcuts", "hidden_norm", "norms", "data", "limit", "epochs",
    "batch_size", "optimizer", "learning_rate", "momentum", "weight_decay", "feedback_scale", "device",
    "checkpoints",
}  # fmt: skip


class Group(NamedTuple):
    """Runs that train together, as positions in a list; or one, and the reason why it trains alone."""

    runs: tuple[int, ...]
    alone: str = ""


def groups_of(configs: Sequence[RunConfig], at_most: int = 32) -> list[Group]:
    """Find out which runs can train together.

    Runs of a group differ in their seeds and learning rules only. Backpropagation and direct feedback, whose
    networks are made otherwise, form groups of their own.

    Args:
        configs: the runs.
        at_most: runs in a group, which all have to fit the memory at once.

    Returns:
        The groups, by their first runs; each run is in one of them.

    Raises:
        ValueError: `at_most` is below 1.
    """
    if at_most < 1:
        raise ValueError(f"at_most must be 1 or more, got {at_most}")
    shapes: dict[str, list[int]] = {}
    groups: list[Group] = []
    for index, config in enumerate(configs):
        if obstacle := _obstacle(config):
            groups.append(Group((index,), obstacle))
        else:
            shapes.setdefault(_shape(config), []).append(index)
    for alike in shapes.values():
        parts = [alike[first : first + at_most] for first in range(0, len(alike), at_most)]
        groups += [
            Group(tuple(part), "" if len(part) > 1 else "there is no other run of its shape")
            for part in parts
        ]
    return sorted(groups)


def train_together(
    configs: Sequence[RunConfig],
    task: Task,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    *,
    on_checkpoint: Callable[[int, int, nn.Module], None] = lambda run, step, network: None,
    metrics: Sequence[Metrics] | None = None,
) -> list[TrainingResult]:
    """Train the runs of a group at once, each to the result that `train` gives, up to rounding.

    Each run has the forward weights, the feedback weights and the batches of its own seed. A run that
    diverges ends there, and the others go on. SIGINT (Ctrl-C) and SIGTERM end all of them as `interrupted`,
    after the present step; a second one at once. The clock is common: `seconds` of each run are those of all
    of them.

    Args:
        configs: the runs, of one of the groups of `groups_of`.
        task: what is to be learnt; of images.
        on_progress: called every few steps, with the mean test accuracy of the runs that have not diverged.
        on_checkpoint: called with the run's position in `configs`, the step and the network at each
            checkpoint of the configuration.
        metrics: where the measurements of each run go; None makes places for them.

    Returns:
        The trained networks and their measurements, in the order of `configs`.

    Raises:
        ValueError: the runs cannot train together.
    """
    _check_group(configs)
    shared = configs[0]
    device = pick_device(shared.device)
    models = [task.build_model(config).to(device) for config in configs]
    task = task.for_run(shared, device)
    if task.images is None:
        raise ValueError(f"runs that train together learn images, got task {shared.task}")
    images = task.images
    start = time.perf_counter()
    networks = StackedNetworks(models, task.loss)
    # Adam, AdamW and SGD treat each number by itself, so that one of them serves all runs.
    optimizer = build_optimizer(networks.weights, shared)
    generators = [torch.Generator().manual_seed(derived_seed(c.seed, "batches")) for c in configs]

    steps_per_epoch = math.ceil(task.train_size / shared.batch_size)
    total_steps = steps_per_epoch * shared.epochs
    checkpoints = checkpoint_steps(shared.checkpoints, total_steps)
    early = {math.ceil(part * steps_per_epoch) for part in EARLY_EPOCHS} - {steps_per_epoch}
    places = [Metrics() for _ in configs] if metrics is None else metrics
    runs = [_Run(index, place) for index, place in enumerate(places)]
    step, epoch = 0, 0.0
    losses: list[Tensor] = []
    epoch_hits = torch.zeros(len(runs), dtype=torch.int64, device=device)

    def going_on() -> list[_Run]:
        return [run for run in runs if run.status == "done"]

    def collect_losses() -> None:
        """Fetch the losses that are still on the device; end the runs that have diverged."""
        values = torch.stack(losses, dim=1).tolist() if losses else [[] for _ in runs]
        first = step - len(losses) + 1
        losses.clear()
        for run in going_on():
            run.take_losses(values[run.index], first, steps_per_epoch)
        if not going_on():
            raise _NoneLeft

    def measure() -> None:
        """Measure the networks as they are now: on the test images, and their alignment layer by layer."""
        test_losses, test_accuracies = _test(networks, images, len(runs))
        cosines = networks.cosines()
        for run in going_on():
            i = run.index
            run.test_loss, run.test_accuracy = test_losses[i], test_accuracies[i]
            rows = [("test_loss", "", run.test_loss), ("test_accuracy", "", run.test_accuracy)]
            for layer, values in cosines.items():
                rows += [("cosine", layer, values[i]), ("angle_deg", layer, angle_deg(values[i]))]
            rows += [("seconds", "", time.perf_counter() - start)]
            run.metrics.extend([Measurement(step, epoch, *row) for row in rows])

    def keep_checkpoints() -> None:
        if step in checkpoints:
            collect_losses()
            for run in going_on():
                on_checkpoint(run.index, step, networks.network(run.index))

    def report() -> None:
        on_progress(Progress(step, total_steps, fmean(run.test_accuracy for run in going_on())))

    with StopRequest() as stop:
        try:
            measure()
            keep_checkpoints()
            for _ in range(shared.epochs):
                orders = [torch.randperm(task.train_size, generator=generator) for generator in generators]
                for run in runs:
                    run.epoch_losses.clear()
                epoch_hits.zero_()

                for batch in torch.stack(orders).to(device).split(shared.batch_size, dim=1):
                    step_losses, scores = networks.learn(task.batch(batch))
                    optimizer.step()
                    step += 1

                    epoch = step / steps_per_epoch
                    losses.append(step_losses)
                    epoch_hits += scores["accuracy"]
                    if len(losses) == STEPS_PER_CHECK:
                        collect_losses()
                        report()
                    if step in early:
                        collect_losses()
                        measure()
                    keep_checkpoints()
                    if stop.asked:
                        raise KeyboardInterrupt

                collect_losses()
                for run, right in zip(runs, epoch_hits.tolist(), strict=True):
                    run.finish_epoch(step, epoch, right / task.train_size)
                measure()
                report()
            for run in going_on():
                if not math.isfinite(run.test_loss):
                    # The very last step broke the network: no further batch is there to show it.
                    run.end("diverged", step)
        except _NoneLeft:
            pass
        except KeyboardInterrupt:
            with suppress(_NoneLeft):
                collect_losses()
            for run in going_on():
                run.end("interrupted", step)
    seconds = time.perf_counter() - start
    return [
        TrainingResult(
            run.status,
            step if run.step is None else run.step,
            total_steps,
            seconds,
            device_name(device),
            run.metrics,
            networks.network(run.index),
        )
        for run in runs
    ]


class _NoneLeft(Exception):
    """All runs have diverged."""


@dataclass
class _Run:
    """What is known of one run of a group; `step` is where it ended before the others, if it did."""

    index: int
    metrics: Metrics
    status: Status = "done"
    step: int | None = None
    test_loss: float = math.nan
    test_accuracy: float = math.nan
    epoch_losses: list[float] = field(default_factory=list)

    def end(self, status: Status, step: int) -> None:
        self.status, self.step = status, step

    def take_losses(self, values: Sequence[float], first: int, steps_per_epoch: int) -> None:
        """Record the losses from step `first` on, up to one that is not finite, which ends the run."""
        good = next((i for i, value in enumerate(values) if not math.isfinite(value)), len(values))
        self.metrics.extend(
            Measurement(at, at / steps_per_epoch, "step_loss", "", value)
            for at, value in enumerate(values[: good + 1], start=first)
        )
        self.epoch_losses.extend(values)
        if good < len(values):
            self.end("diverged", first + good)

    def finish_epoch(self, step: int, epoch: float, accuracy: float) -> None:
        if self.status == "done":
            rows = [("train_loss", "", fmean(self.epoch_losses)), ("train_accuracy", "", accuracy)]
            self.metrics.extend([Measurement(step, epoch, *row) for row in rows])


def _test(networks: StackedNetworks, data: ImageData, count: int) -> tuple[list[float], list[float]]:
    """Mean cross-entropy of each network on the test images, and its fraction of right answers."""
    images, labels = data.test_images, data.test_labels
    loss = torch.zeros(count, dtype=torch.float64, device=labels.device)
    hits = torch.zeros(count, dtype=torch.int64, device=labels.device)
    size = max(1, _TESTED_AT_ONCE // count)
    for some_images, some_labels in zip(images.split(size), labels.split(size), strict=True):
        means, scores = networks.test((as_pixels(some_images), some_labels))
        loss += means.double() * len(some_labels)
        hits += scores["accuracy"]
    return (loss / len(labels)).tolist(), [right / len(labels) for right in hits.tolist()]


def _obstacle(config: RunConfig) -> str:
    """Why a run cannot train with others; empty if it can."""
    if parse_rule(config.rule, 0).evolves:
        return f"the feedback weights of {config.rule} change as it learns"
    if config.model not in _NETWORKS:
        return f"{config.model} is none of the small networks, {' and '.join(_NETWORKS)}"
    unknown = [
        f"{name}={getattr(config, name)}"
        for name, setting in TrainingConfig.model_fields.items()
        if name not in _KNOWN_SETTINGS and getattr(config, name) != setting.default
    ]
    return f"{', '.join(unknown)} is for runs by themselves" if unknown else ""


def _shape(config: RunConfig) -> str:
    """What runs must have in common, as text."""
    rule = parse_rule(config.rule, 0)
    # Networks of these two have no feedback weights, or none that belong to forward weights.
    kind = "feedback weights" if rule.has_layer_feedback else config.rule
    return f"{kind}, {config.model_dump_json(exclude={'rule', 'seed'})}"


def _check_group(configs: Sequence[RunConfig]) -> None:
    if not configs:
        raise ValueError("configs must hold at least one run")
    for config in configs:
        if obstacle := _obstacle(config):
            raise ValueError(f"run {config.rule}, seed {config.seed}, cannot train with others: {obstacle}")
    if len({_shape(config) for config in configs}) > 1:
        raise ValueError("configs must differ in seed and rule only, bp and dfa by themselves: see groups_of")
