"""Curvature of the loss: leading eigenvalues, trace and spectral density of its Hessian or GGN.

All are computed from products with vectors, by hessian-eigenthings, and always inside ``exact_gradients``.
There is no option to go through feedback weights: what differentiating the rule's gradient gives is not
symmetric, is no Hessian of any function, and Lanczos' method does not hold for it.

The model is in eval mode meanwhile, so that the loss is a function of the weights alone: no dropout, and
BatchNorm with its stored statistics.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from alignonce.diagnostics._measuring import Batch, Loss
from alignonce.diagnostics._operator import Matrix, curvature_operator

__all__ = [
    "CurvatureTrace",
    "LeadingEigenvalues",
    "SpectralDensity",
    "curvature_trace",
    "leading_eigenvalues",
    "spectral_density",
]


@dataclass(frozen=True)
class LeadingEigenvalues:
    """The largest eigenvalues, largest first."""

    values: tuple[float, ...]
    residuals: tuple[float, ...]
    """‖Av - λv‖ for unit vectors v."""
    converged: tuple[bool, ...]
    """Whether the residual is below 1e-3 of the eigenvalue's size; if not, take more steps."""


@dataclass(frozen=True)
class CurvatureTrace:
    """An estimate of the trace."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class SpectralDensity:
    """Density of the eigenvalues, of total mass 1, smoothed by a Gaussian."""

    grid: NDArray[np.float64]
    """(points,) eigenvalues."""
    density: NDArray[np.float64]
    """(points,) density at each of them."""
    sigma: float
    """Standard deviation of the Gaussian."""
    nodes: NDArray[np.float64]
    """(runs, steps) eigenvalues before smoothing; NaN where a run ended early."""
    weights: NDArray[np.float64]
    """(runs, steps) mass of each node; each run's sum to 1."""


def leading_eigenvalues(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Loss,
    k: int = 5,
    *,
    matrix: Matrix = "hessian",
    steps: int = 100,
    seed: int = 0,
) -> LeadingEigenvalues:
    """Largest eigenvalues of the loss's Hessian or GGN, by Lanczos' method.

    An eigenvalue that occurs several times is found once.

    Args:
        model: any model; parameters that require no gradient count as constants.
        batches: (inputs, targets) pairs; the loss is their mean, weighted by their sizes.
        loss: takes the model's output and the targets, returns the mean over the batch.
        k: how many eigenvalues.
        matrix: ``"hessian"``, or ``"ggn"`` for the generalised Gauss-Newton matrix JᵀHJ, with J the Jacobian
            of the model's output (which must be a tensor) and H the loss's Hessian with respect to it.
        steps: products with the matrix, each a forward and two backward passes of all batches.
        seed: of the random start.

    Returns:
        At most k eigenvalues, fewer if the matrix has not so many different ones.

    Raises:
        ValueError: if k, steps or matrix is out of range, there are no samples or the loss is not finite.
        ModuleNotFoundError: if hessian-eigenthings is not installed.
    """
    with curvature_operator(model, batches, loss, matrix) as (library, operator):
        if not 1 <= k <= operator.size:
            raise ValueError(f"k must be in 1 to {operator.size}, the number of parameters, got {k}")
        if steps < k:
            raise ValueError(f"steps must be at least k = {k}, got {steps}")
        found = library.lanczos(
            operator, k=k, max_iter=min(steps, operator.size), tol=1e-3, reorthogonalize=True,
            which="LA", seed=seed,
        )  # fmt: skip
    return LeadingEigenvalues(
        tuple(found.eigenvalues.tolist()), tuple(found.residuals.tolist()), tuple(found.converged.tolist())
    )


def curvature_trace(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Loss,
    *,
    matrix: Matrix = "hessian",
    products: int = 99,
    seed: int = 0,
) -> CurvatureTrace:
    """Trace of the loss's Hessian or GGN, by the Hutch++ estimator.

    Source: Meyer, Musco, Musco & Woodruff 2021, doi:10.1137/1.9781611976496.16.

    Args:
        model: as in :func:`leading_eigenvalues`, likewise batches, loss and matrix.
        batches: (inputs, targets) pairs.
        loss: takes the model's output and the targets, returns the mean over the batch.
        matrix: ``"hessian"`` or ``"ggn"``.
        products: products with the matrix; three times the number of parameters give the exact trace.
        seed: of the random vectors.

    Returns:
        The estimate and its standard error.

    Raises:
        ValueError: if products is below 6, there are no samples or the loss is not finite.
        ModuleNotFoundError: if hessian-eigenthings is not installed.
    """
    if products < 6:
        raise ValueError(f"products must be at least 6, to give a standard error, got {products}")
    with curvature_operator(model, batches, loss, matrix) as (library, operator):
        found = library.hutch_plus_plus(operator, num_matvecs=products, seed=seed)
    return CurvatureTrace(found.estimate, found.stderr)


def spectral_density(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Loss,
    *,
    matrix: Matrix = "hessian",
    runs: int = 10,
    steps: int = 80,
    points: int = 1000,
    sigma: float | None = None,
    seed: int = 0,
) -> SpectralDensity:
    """Density of all eigenvalues of the loss's Hessian or GGN, by stochastic Lanczos quadrature.

    Source: Ghorbani, Krishnan & Xiao 2019, arXiv 1901.10159, section 2.

    Args:
        model: as in :func:`leading_eigenvalues`, likewise batches, loss and matrix.
        batches: (inputs, targets) pairs.
        loss: takes the model's output and the targets, returns the mean over the batch.
        matrix: ``"hessian"`` or ``"ggn"``.
        runs: random starts that are averaged.
        steps: Lanczos steps in each.
        points: of the grid.
        sigma: standard deviation of the Gaussian; by default the range of the eigenvalues over ``steps``.
        seed: of the random starts.

    Returns:
        The density on a grid, and the nodes and weights that it is made of.

    Raises:
        ValueError: if runs, steps, points or sigma is not positive, there are no samples or the loss is not
            finite.
        ModuleNotFoundError: if hessian-eigenthings is not installed.
    """
    for name, value in {"runs": runs, "steps": steps, "points": points, "sigma": sigma}.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    with curvature_operator(model, batches, loss, matrix) as (library, operator):
        found = library.spectral_density(
            operator, num_runs=runs, lanczos_steps=min(steps, operator.size), num_grid_points=points,
            sigma=sigma, seed=seed,
        )  # fmt: skip
    arrays = [found.grid, found.density, found.raw_eigenvalues, found.raw_weights]
    grid, density, nodes, weights = (tensor.double().cpu().numpy() for tensor in arrays)
    return SpectralDensity(grid, density, float(found.sigma), nodes, weights)
