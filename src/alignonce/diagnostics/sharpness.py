"""Sharpness: how much the loss can rise within a radius around the weights.

Plain sharpness is not a property of the function that a network computes: scaling one ReLU layer up and the
next one down leaves the function as it is and makes the sharpness as large as one likes (Dinh et al. 2017).
Adaptive sharpness measures the radius in units of each weight and does not change then.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alignonce.diagnostics._measuring import (
    Batch,
    Loss,
    batch_shares,
    check_batches,
    check_model,
    learnt_parameters,
    loss_on,
)
from alignonce.diagnostics._parameters import parameters_restored
from alignonce.model_access import exact_gradients
from alignonce.undisturbed import undisturbed

__all__ = ["Sharpness", "sharpness"]


@dataclass(frozen=True)
class Sharpness:
    """The rise of the loss within a radius."""

    value: float
    """The highest loss found within the radius, less the loss at the weights."""
    loss: float
    """The loss at the weights."""
    radius: float
    adaptive: bool


def sharpness(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Loss,
    radius: float,
    *,
    adaptive: bool = False,
    steps: int = 1,
    seed: int = 0,
) -> Sharpness:
    """Search for the highest loss within a radius of the weights, along exact gradients.

    Plain: ‖ε‖ ≤ radius, and one step is ε = ρ·g/‖g‖ (SAM, Foret et al. 2021, arXiv 2010.01412, equation 2).
    Adaptive: ‖ε/|w|‖ ≤ radius, and one step is ε = ρ·w²g/‖|w|g‖ (ASAM, Kwon et al. 2021, arXiv 2102.11600,
    equation 8 with element-wise normalisation, for all parameters and without a floor under |w|). More steps
    each go a radius further along the gradient and back into the ball; the highest loss counts.

    The model is in eval mode meanwhile, so that the loss is a function of the weights alone.

    Args:
        model: any model; parameters that require no gradient stay.
        batches: (inputs, targets) pairs; the loss is their mean, weighted by their sizes.
        loss: takes the model's output and the targets, returns the mean over the batch.
        radius: ρ, in units of the weights, or relative to them if adaptive (0.05 and 0.5 are usual).
        adaptive: measure in units of each weight.
        steps: 1 as in the papers; about 20 come near the true maximum.
        seed: of a random direction that is taken where the gradient is zero.

    Returns:
        The rise, which can be negative after one step on a rugged landscape.

    Raises:
        ValueError: if radius or steps is not positive, there are no samples, or the loss is not finite.
    """
    model = check_model(model)
    if not radius > 0:
        raise ValueError(f"radius must be positive, got {radius}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    parameters = list(learnt_parameters(model).values())
    generator = torch.Generator().manual_seed(seed)
    with undisturbed(model, "eval"), exact_gradients(model), parameters_restored(model):
        pairs = check_batches(batches)
        start = [p.detach().clone() for p in parameters]
        unit = [p.abs() if adaptive else torch.ones_like(p) for p in start]
        offset = [torch.zeros_like(p) for p in start]  # ε in these units
        base, gradients = _loss_and_gradients(model, pairs, loss, parameters)
        worst = -torch.inf
        for _ in range(steps):
            ascent = [u * g for u, g in zip(unit, gradients, strict=True)]
            if not any(a.any() for a in ascent):
                ascent = [torch.randn(p.shape, generator=generator).to(p) for p in start]
            offset = [o + radius * a for o, a in zip(offset, _normed(ascent), strict=True)]
            if _norm(offset) > radius:
                offset = [radius * o for o in _normed(offset)]
            for parameter, w, u, o in zip(parameters, start, unit, offset, strict=True):
                parameter.data.copy_(w + u * o)
            value, gradients = _loss_and_gradients(model, pairs, loss, parameters)
            worst = max(worst, value)
    return Sharpness(worst - base, base, radius, adaptive)


def _loss_and_gradients(
    model: nn.Module, batches: list[Batch], loss: Loss, parameters: list[nn.Parameter]
) -> tuple[float, list[Tensor]]:
    total, gradients = 0.0, [torch.zeros_like(p) for p in parameters]
    for batch, share in zip(batches, batch_shares(batches), strict=True):
        value = loss_on(model, batch, loss)
        total += share * float(value.detach())
        found = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        gradients = [g + share * new for g, new in zip(gradients, found, strict=True)]
    return total, gradients


def _norm(tensors: list[Tensor]) -> Tensor:
    return torch.stack([t.norm().double() for t in tensors]).norm()


def _normed(tensors: list[Tensor]) -> list[Tensor]:
    norm = _norm(tensors)
    return [t / norm.to(t) for t in tensors]
