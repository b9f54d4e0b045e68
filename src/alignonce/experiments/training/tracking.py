"""Measures taken during training, on a fixed batch of training images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignonce import feedback_weights
from alignonce.diagnostics import (
    Tracker,
    compare_gradients,
    functional_alignment,
    gradient_flow,
    weight_alignment,
)
from alignonce.experiments.config.devices import pick_device
from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.tasks import Task
from alignonce.experiments.training.loop import as_pixels

Batch = tuple[Tensor, Tensor]
TrackedName = Literal["alignment", "gradients", "flow"]
TRACKED_IMAGES = 256


def build_tracker(names: Sequence[TrackedName], every: int, config: RunConfig, task: Task) -> Tracker:
    """Set up measures for `train`.

    Args:
        names: `alignment` of W and B, as weights and in the signals that they make of the batch's errors;
            `gradients`, the rule's against the exact ones; `flow`, the norms of errors and gradients.
        every: steps between measurements; the first is before any step.
        config: the run.
        task: what it learns; measured are 256 of its training images, always the same.

    Returns:
        The tracker.

    Raises:
        ValueError: `every` is below 1, there are no names, or the task is not images.
    """
    if task.images is None:
        raise ValueError(f"track: measurements during training are for task images, got task {config.task}")
    if every < 1:
        raise ValueError(f"track-every must be 1 or more, got {every}")
    some, device = task.images.limited(TRACKED_IMAGES), pick_device(config.device)
    batch = as_pixels(some.train_images).to(device), some.train_labels.to(device)

    def signals(model: nn.Module) -> Any:
        # Backpropagation and direct feedback have no feedback weights to compare.
        has_feedback = any(True for _ in feedback_weights(model))
        return functional_alignment(model, batch, F.cross_entropy) if has_feedback else None

    known: dict[TrackedName, dict[str, Callable[[nn.Module], Any]]] = {
        "alignment": {"weight": weight_alignment, "signal": signals},
        "gradients": {"gradient": lambda model: compare_gradients(model, batch, F.cross_entropy)},
        "flow": {"flow": lambda model: gradient_flow(model, batch, F.cross_entropy)},
    }
    measures = {key: measure for name in names for key, measure in known[name].items()}
    return Tracker({key: _while_finite(measure, batch) for key, measure in measures.items()}, every)


def _while_finite(measure: Callable[[nn.Module], Any], batch: Batch) -> Callable[[nn.Module], Any]:
    def take(model: nn.Module) -> Any:
        try:
            return measure(model)
        except ValueError:
            with torch.no_grad():
                loss = F.cross_entropy(model(batch[0]), batch[1])
            # A step has just broken the network: training finds out by its next loss and ends as diverged.
            if torch.isfinite(loss):
                raise
            return None

    return take
