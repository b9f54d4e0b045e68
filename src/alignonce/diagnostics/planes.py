"""Planes through the space of weights, to look at the loss on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alignonce.diagnostics._measuring import check_model
from alignonce.diagnostics._parameters import Solution, parameter_vector

__all__ = ["Plane", "random_plane", "trajectory_plane"]


@dataclass(frozen=True)
class Plane:
    """The weights ``origin + x·x_direction + y·y_direction``."""

    origin: Tensor
    """(parameters,), float64, in the order of the model's ``named_parameters``; likewise the directions."""
    x_direction: Tensor
    y_direction: Tensor
    extent: tuple[float, float, float, float] = (-1.0, 1.0, -1.0, 1.0)
    """Lowest and highest x, lowest and highest y worth looking at."""
    paths: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Coordinates (points, 2) of each run's weights, projected onto the plane."""
    explained: tuple[float, float] | None = None
    """Of the plane of trajectories: the share of their variance along x and along y."""

    def at(self, x: float, y: float) -> Tensor:
        """The weights at a point of the plane, (parameters,)."""
        return self.origin + x * self.x_direction + y * self.y_direction

    def project(self, weights: Tensor) -> NDArray[np.float64]:
        """Coordinates of the nearest points of the plane.

        Args:
            weights: (points, parameters); the directions need not be orthogonal.

        Returns:
            (points, 2).
        """
        directions = torch.stack([self.x_direction, self.y_direction])
        overlaps = (weights.to(torch.float64) - self.origin) @ directions.T
        solved: Tensor = torch.linalg.solve(directions @ directions.T, overlaps.T)
        return solved.T.numpy()


def random_plane(model: nn.Module, seed: int = 0) -> Plane:
    """A plane through a model's weights along two random, filter-normalised directions.

    In each direction, what belongs to one output unit or channel (the first dimension of a weight) has the
    norm of the weights themselves, so that flatness does not depend on a layer's scale. Biases and norm
    layers (parameters of one dimension) stay as they are.

    Source: Li, Xu, Taylor, Studer & Goldstein 2018, arXiv 1712.09913, section 4.

    Args:
        model: any model; its weights are the origin.
        seed: of the directions.

    Returns:
        The plane, whose unit of x and y is the weights' own norm.

    Raises:
        ValueError: if the model has no weights of two dimensions or more.
    """
    model = check_model(model)
    generator = torch.Generator().manual_seed(seed)

    def direction() -> Tensor:
        return torch.cat([_filter_normalised(p, generator).reshape(-1) for p in model.parameters()])

    if not any(p.dim() > 1 for p in model.parameters()):
        raise ValueError("the model has no weights of two dimensions or more to vary")
    return Plane(parameter_vector(model, model), direction(), direction())


def trajectory_plane(model: nn.Module, paths: Mapping[str, Sequence[Solution]]) -> Plane:
    """The plane of the two principal components of what training went through.

    Source: as :func:`random_plane`, section 7, for one run; here the components are those of all runs'
    points together, about their mean, so that each run has its path on one and the same plane.

    Args:
        model: says which parameters there are.
        paths: for each run, by its name, its weights at several steps: state_dicts or flat vectors.

    Returns:
        The plane, with unit directions, each run's path, and an extent that holds all paths.

    Raises:
        ValueError: if there are fewer than three points, they lie on one line, or they do not fit the model.
    """
    model = check_model(model)
    vectors = {name: [parameter_vector(s, model) for s in states] for name, states in paths.items()}
    if sum(len(states) for states in vectors.values()) < 3 or not all(vectors.values()):
        raise ValueError("a plane needs at least three points, and each run at least one")
    points = torch.stack([vector for states in vectors.values() for vector in states])
    if not torch.isfinite(points).all():
        raise ValueError("a run's weights hold NaN or infinite values")
    origin = points.mean(dim=0)
    _, scales, directions = torch.linalg.svd(points - origin, full_matrices=False)
    if not scales[1] > 1e-10 * scales[0]:
        raise ValueError("all points lie on one line: there is no plane through them")
    shares = scales.square() / scales.square().sum()
    plane = Plane(origin, directions[0], directions[1])
    projected = {name: plane.project(torch.stack(states)) for name, states in vectors.items()}
    everything = np.concatenate(list(projected.values()))
    low, high = everything.min(axis=0), everything.max(axis=0)
    margin = 0.2 * (high - low)
    (x0, y0), (x1, y1) = (low - margin).tolist(), (high + margin).tolist()
    explained = (float(shares[0]), float(shares[1]))
    return Plane(origin, directions[0], directions[1], (x0, x1, y0, y1), projected, explained)


def _filter_normalised(parameter: Tensor, generator: torch.Generator) -> Tensor:
    if parameter.dim() < 2:
        return torch.zeros(parameter.shape, dtype=torch.float64)
    weight = parameter.detach().to("cpu", torch.float64).flatten(1)
    noise = torch.randn(weight.shape, dtype=torch.float64, generator=generator)
    return noise * (weight.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True))
