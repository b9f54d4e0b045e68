"""Loss and accuracy on a plane through the space of weights, and between two solutions."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alignonce.diagnostics._evaluation import evaluate
from alignonce.diagnostics._measuring import Batch, Loss, check_batches, check_model
from alignonce.diagnostics._parameters import (
    Solution,
    parameter_vector,
    parameters_restored,
    set_parameters,
)
from alignonce.diagnostics.planes import Plane
from alignonce.formats.compressed import CompressedFeedback
from alignonce.model_access import feedback_weights, unwrap
from alignonce.undisturbed import undisturbed

__all__ = ["Interpolation", "Surface", "interpolate", "surface"]


@dataclass(frozen=True)
class Surface:
    """Loss and accuracy on a grid."""

    x: NDArray[np.float64]
    """(nx,)"""
    y: NDArray[np.float64]
    """(ny,)"""
    loss: NDArray[np.float64]
    """(ny, nx); infinite or NaN where the loss is."""
    accuracy: NDArray[np.float64]
    """(ny, nx), in [0, 1]; NaN if targets are no class labels."""


@dataclass(frozen=True)
class Interpolation:
    """Loss and accuracy on the line from one solution to another."""

    alpha: NDArray[np.float64]
    """(points,); 0 is the start, 1 the end."""
    loss: NDArray[np.float64]
    """(points,)"""
    accuracy: NDArray[np.float64]
    """(points,), in [0, 1]; NaN if targets are no class labels."""

    @property
    def barrier(self) -> float:
        """How far the loss rises above the straight line between its ends: 0 if it does not."""
        line = self.loss[0] + (self.loss[-1] - self.loss[0]) * (self.alpha - self.alpha[0]) / np.ptp(
            self.alpha
        )
        return float(max(0.0, (self.loss - line).max()))


def surface(
    model: nn.Module,
    plane: Plane,
    batches: Iterable[Batch],
    loss: Loss,
    *,
    points: int = 21,
    x: Sequence[float] | None = None,
    y: Sequence[float] | None = None,
    batch_statistics: bool = False,
) -> Surface:
    """Evaluate a model on a grid of a plane through its weights' space; its own weights are as before after.

    Args:
        model: any model of the architecture that the plane belongs to.
        plane: from :func:`random_plane` or :func:`trajectory_plane`.
        batches: (inputs, targets) pairs; the loss is their mean, weighted by their sizes.
        loss: takes the model's output and the targets, returns the mean over the batch.
        points: in each direction, spread over the plane's extent.
        x: the grid's x instead, of any number; likewise ``y``.
        y: the grid's y instead.
        batch_statistics: False evaluates BatchNorm with the model's stored statistics, which belong to the
            weights that the model has now; True with those of each batch.

    Returns:
        Loss and accuracy at all points.

    Raises:
        ValueError: if there are no samples or points, the plane has other parameters than the model, or the
            loss is finite nowhere.
    """
    model = check_model(model)
    if points < 1:
        raise ValueError(f"points must be at least 1, got {points}")
    x0, x1, y0, y1 = plane.extent
    xs = np.linspace(x0, x1, points) if x is None else np.asarray(x, dtype=np.float64)
    ys = np.linspace(y0, y1, points) if y is None else np.asarray(y, dtype=np.float64)
    parameter_vector(plane.origin, model)
    with _evaluating(model, batch_statistics):
        pairs = check_batches(batches)
        found = []
        for b in ys:
            for a in xs:
                set_parameters(model, plane.at(a, b))
                found.append(evaluate(model, pairs, loss))
    losses, accuracies = _arrays([(e.loss, e.accuracy) for e in found])
    return Surface(xs, ys, losses.reshape(len(ys), len(xs)), accuracies.reshape(len(ys), len(xs)))


def interpolate(
    model: nn.Module,
    start: Solution,
    end: Solution,
    batches: Iterable[Batch],
    loss: Loss,
    *,
    points: int = 21,
    batch_statistics: bool = False,
) -> Interpolation:
    """Evaluate a model on the straight line between two solutions; its own weights are as before after.

    Source: Goodfellow, Vinyals & Saxe 2015, arXiv 1412.6544.

    Args:
        model: any model of the solutions' architecture.
        start: a model, a state_dict or a flat vector of parameters; likewise ``end``.
        end: where the line ends.
        batches: (inputs, targets) pairs; the loss is their mean, weighted by their sizes.
        loss: takes the model's output and the targets, returns the mean over the batch.
        points: on the line, both ends included.
        batch_statistics: False evaluates BatchNorm with stored statistics: those of the two solutions,
            interpolated like the weights (vectors have none, so that the model's own are used); True with
            those of each batch.

    Returns:
        Loss and accuracy at all points.

    Raises:
        ValueError: if there are no samples, fewer than two points, a solution does not fit the model, or the
            loss is finite nowhere.
    """
    model = check_model(model)
    if points < 2:
        raise ValueError(f"points must be at least 2, got {points}")
    a, b = parameter_vector(start, model), parameter_vector(end, model)
    buffers = _shared_buffers(model, start, end)
    alphas = np.linspace(0, 1, points)
    with _evaluating(model, batch_statistics):
        pairs = check_batches(batches)
        found = []
        for alpha in alphas.tolist():
            set_parameters(model, torch.lerp(a, b, alpha))
            for buffer, from_start, from_end in buffers:
                buffer.data.copy_(torch.lerp(from_start, from_end, alpha))
            found.append(evaluate(model, pairs, loss))
    losses, accuracies = _arrays([(e.loss, e.accuracy) for e in found])
    return Interpolation(alphas, losses, accuracies)


@contextmanager
def _evaluating(model: nn.Module, batch_statistics: bool) -> Iterator[None]:
    with undisturbed(model, "eval"), parameters_restored(model):
        for module in model.modules():
            if batch_statistics and isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train()
        yield


def _shared_buffers(model: nn.Module, start: Solution, end: Solution) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Floating-point buffers (BatchNorm's statistics) that both solutions know; not feedback weights."""
    ends = []
    for solution in (start, end):
        if isinstance(solution, nn.Module):
            solution = dict(unwrap(solution).named_buffers())
        ends.append({} if isinstance(solution, Tensor) else solution)
    feedback = {id(b) for _, _, b in feedback_weights(model)}
    for module in model.modules():
        if isinstance(module, CompressedFeedback):
            feedback.update(map(id, module.buffers()))
    a, b = ends
    return [
        (buffer, a[name].detach().clone().to(buffer), b[name].detach().clone().to(buffer))
        for name, buffer in model.named_buffers()
        if buffer.is_floating_point() and id(buffer) not in feedback and name in a and name in b
    ]


def _arrays(found: list[tuple[float, float]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    losses, accuracies = np.array(found, dtype=np.float64).reshape(-1, 2).T
    if not np.isfinite(losses).any():
        raise ValueError("the loss is finite nowhere: there is nothing to look at")
    return losses, accuracies
