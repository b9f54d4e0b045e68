"""Of which rank forward weights, feedback weights and their gradients are, and where they overlap.

Weights are taken as matrices of (out, rest): a convolution's kernel is flattened behind its output channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alignonce.diagnostics._measuring import Batch, Loss, check_batch, check_model, forward_weights, loss_on
from alignonce.layers import FeedbackLayer
from alignonce.undisturbed import undisturbed

__all__ = [
    "EffectiveRank",
    "SubspaceAlignment",
    "effective_rank",
    "effective_ranks",
    "principal_angles",
    "subspace_alignment",
]


@dataclass(frozen=True)
class EffectiveRank:
    """Effective ranks of a layer's matrices, each between 1 and the matrix's smaller side."""

    weight: float
    feedback: float | None
    """None for a layer without a feedback weight."""
    gradient: float | None
    """Of dW on a batch; None if no batch was given or the weight gets no gradient."""


@dataclass(frozen=True)
class SubspaceAlignment:
    """Principal angles in degrees, in [0, 90], smallest first, between leading singular subspaces."""

    left: tuple[float, ...]
    """Of the output side: the errors that W and B listen to most."""
    right: tuple[float, ...]
    """Of the input side: the directions that W and B send them in."""


def effective_rank(matrix: Tensor) -> float:
    """Exponential of the entropy of a matrix's singular values, taken as a distribution.

    Source: Roy & Vetterli 2007, "The effective rank", EUSIPCO, definition 1.

    Args:
        matrix: (rows, columns).

    Returns:
        Between 1 (one singular value) and min(rows, columns) (all equal); 0 for a matrix of zeros.

    Raises:
        ValueError: if it is no matrix or holds NaN or infinity.
    """
    if matrix.dim() != 2:
        raise ValueError(f"matrix must have two dimensions, got shape {tuple(matrix.shape)}")
    matrix = matrix.detach().to("cpu", torch.float64)
    if not torch.isfinite(matrix).all():
        raise ValueError("matrix holds NaN or infinite values")
    values: Tensor = torch.linalg.svdvals(matrix)
    if not values.any():
        return 0.0
    share = values / values.sum()
    return float(torch.special.entr(share).sum().exp())


def effective_ranks(
    model: nn.Module, batch: Batch | None = None, loss: Loss | None = None
) -> dict[str, EffectiveRank]:
    """Effective rank of each forward weight W, its feedback weight B and, on a batch, its gradient dW.

    Args:
        model: any model, in the mode that it is to be measured in.
        batch: (inputs, targets), for dW under the model's learning rule.
        loss: takes the model's output and the targets, returns a scalar; needed with a batch.

    Returns:
        By the weight's name, in the model's order.

    Raises:
        ValueError: if only one of batch and loss is given, the batch is empty or the loss not finite.
    """
    model = check_model(model)
    if (batch is None) != (loss is None):
        raise ValueError("batch and loss must be given together")
    weights = {name: (layer, weight_name) for name, layer, weight_name in forward_weights(model)}
    gradients: dict[str, Tensor] = {}
    if batch is not None and loss is not None:
        targets = {n: w for n, (layer, k) in weights.items() if (w := getattr(layer, k)).requires_grad}
        with undisturbed(model):
            value = loss_on(model, check_batch(batch), loss)
            found = torch.autograd.grad(value, list(targets.values()), allow_unused=True)
        gradients = {n: g for n, g in zip(targets, found, strict=True) if g is not None}
    ranks = {}
    for name, (layer, weight_name) in weights.items():
        feedback = layer.feedback_of(weight_name) if isinstance(layer, FeedbackLayer) else None
        ranks[name] = EffectiveRank(
            effective_rank(_as_matrix(layer, getattr(layer, weight_name))),
            None if feedback is None else effective_rank(_as_matrix(layer, feedback)),
            effective_rank(_as_matrix(layer, gradients[name])) if name in gradients else None,
        )
    return ranks


def subspace_alignment(model: nn.Module, k: int) -> dict[str, SubspaceAlignment]:
    """Principal angles between the leading k-dimensional singular subspaces of W and of B, layer by layer.

    Where k reaches the whole space (10 output units, k = 10) the angles are 0 and say nothing.

    Args:
        model: a model with a learning rule; layers without feedback weights do not appear.
        k: dimension of the subspaces; cut to a matrix's smaller side.

    Returns:
        By the weight's name, in the model's order.

    Raises:
        ValueError: if k is not positive.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    result = {}
    for name, layer, weight_name in forward_weights(check_model(model)):
        if isinstance(layer, FeedbackLayer):
            matrices = (getattr(layer, weight_name), layer.feedback_of(weight_name))
            w, b = (_as_matrix(layer, m).detach().to("cpu", torch.float64) for m in matrices)
            (u_w, _, v_w), (u_b, _, v_b) = (torch.linalg.svd(m, full_matrices=False) for m in (w, b))
            left = principal_angles(u_w[:, :k], u_b[:, :k])
            result[name] = SubspaceAlignment(left, principal_angles(v_w[:k].T, v_b[:k].T))
    return result


def principal_angles(a: Tensor, b: Tensor) -> tuple[float, ...]:
    """Principal angles between the spans of two orthonormal bases.

    Cosines alone cannot tell small angles from 0, sines alone large ones from 90: both are used.

    Source: Björck & Golub 1973, doi:10.2307/2005662.

    Args:
        a: (n, k), with orthonormal columns.
        b: (n, k), likewise.

    Returns:
        k angles in degrees, smallest first.
    """
    overlap = a.T @ b
    cosines = torch.linalg.svdvals(overlap)
    sines = torch.linalg.svdvals(b - a @ overlap).flip(0)
    angles = torch.rad2deg(torch.atan2(sines, cosines))
    return tuple(float(angle) for angle in angles)


def _as_matrix(layer: nn.Module, weight: Tensor) -> Tensor:
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        weight = weight.transpose(0, 1)  # (in, out / groups, *kernel)
    return weight.flatten(1)
