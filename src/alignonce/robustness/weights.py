"""Perturbed forward weights: noise, few bits, imperfect devices.

These are a hardware user's questions. Only forward weights are perturbed, the numbers that a chip would
hold in its crossbars; biases, norm layers and feedback weights are not.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from alignonce.layers import forward_weight_names
from alignonce.model_access import unwrap
from alignonce.robustness.checks import check_choice

__all__ = [
    "DeviceMismatch",
    "Quantisation",
    "WeightNoise",
    "WeightPerturbation",
    "perturbed_weights",
]


class WeightPerturbation(ABC):
    """A change of a forward weight's values. A value itself: it holds settings, no tensors."""

    @abstractmethod
    def perturb(self, weight: Tensor, channel_dim: int, generator: Generator) -> Tensor:
        """Give a weight's perturbed values.

        Args:
            weight: the weight, of any shape, on the CPU in float32 or float64; not to be changed.
            channel_dim: the dimension of the output channels.
            generator: the source of random numbers.

        Returns:
            A new tensor of the weight's shape.
        """


@dataclass(frozen=True)
class WeightNoise(WeightPerturbation):
    """Add Gaussian noise in proportion to each weight tensor's own scale.

    Args:
        level: standard deviation of the noise, as a share of that scale; 0 or more.
        relative_to: the scale, ``"std"`` (standard deviation) or ``"max"`` (largest magnitude) of the tensor.

    Raises:
        ValueError: if an argument is not as said above.

    Source: relative to the maximum, Joshi et al. 2020, doi:10.1038/s41467-020-16108-9.
    """

    level: float
    relative_to: str = "std"

    def __post_init__(self) -> None:
        _check_not_negative("level", self.level)
        check_choice("scale of the noise", self.relative_to, ("std", "max"))

    def perturb(self, weight: Tensor, channel_dim: int, generator: Generator) -> Tensor:
        """Add the noise."""
        scale = weight.std(correction=0) if self.relative_to == "std" else weight.abs().max()
        return weight + self.level * scale * _normal(weight, generator)


@dataclass(frozen=True)
class Quantisation(WeightPerturbation):
    """Round to the levels of a uniform symmetric k-bit code, from -m to m in 2^k - 1 levels, 0 among them.

    Args:
        bits: k, 2 to 16.
        per: ``"tensor"`` for one largest magnitude m, ``"channel"`` for one in each output channel.

    Raises:
        ValueError: if an argument is not as said above.

    Source: Krishnamoorthi 2018, arXiv 1806.08342, section 2.2.
    """

    bits: int
    per: str = "tensor"

    def __post_init__(self) -> None:
        if self.bits not in range(2, 17):
            raise ValueError(f"bits must be a whole number from 2 to 16, got {self.bits}")
        check_choice("range of the quantisation", self.per, ("tensor", "channel"))

    def perturb(self, weight: Tensor, channel_dim: int, generator: Generator) -> Tensor:
        """Round to the nearest level."""
        largest = weight.abs().max()
        if self.per == "channel":
            others = [d for d in range(weight.ndim) if d != channel_dim]
            largest = weight.abs().amax(others, keepdim=True) if others else weight.abs()
        step = largest / (2 ** (self.bits - 1) - 1)
        step = torch.where(step > 0, step, torch.ones_like(step))  # all zero stays so
        return (weight / step).round() * step


@dataclass(frozen=True)
class DeviceMismatch(WeightPerturbation):
    """Multiply each weight by a log-normal factor, and let a share of them be stuck at zero.

    Args:
        sigma: standard deviation of the logarithm of the factor, whose median is 1; 0 or more.
        stuck_at_zero: the share of dead devices, in [0, 1].

    Raises:
        ValueError: if an argument is not as said above.
    """

    sigma: float = 0.0
    stuck_at_zero: float = 0.0

    def __post_init__(self) -> None:
        _check_not_negative("sigma", self.sigma)
        if not 0 <= self.stuck_at_zero <= 1:
            raise ValueError(f"stuck_at_zero must be in [0, 1], got {self.stuck_at_zero}")

    def perturb(self, weight: Tensor, channel_dim: int, generator: Generator) -> Tensor:
        """Multiply, then cut."""
        factor = (self.sigma * _normal(weight, generator)).exp()
        alive = torch.rand(weight.shape, generator=generator, dtype=torch.float64) >= self.stuck_at_zero
        return weight * factor * alive.to(weight)


@contextmanager
def perturbed_weights(model: nn.Module, perturbation: WeightPerturbation, seed: int = 0) -> Iterator[None]:
    """Perturb a model's forward weights in place, and restore them bit for bit at the end, errors included.

    The random part is drawn on the CPU: the same on every device. A weight that layers share is perturbed
    once.

    Args:
        model: any module with layers that can carry a feedback weight, whatever its learning rule.
        perturbation: what to do to each forward weight.
        seed: decides what is random; global random states are left as they were.

    Raises:
        ValueError: if the model has no forward weights.
    """
    generator = torch.Generator().manual_seed(seed)
    changes: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    for layer in unwrap(model).modules():
        channel_dim = 1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0
        for name in forward_weight_names(layer):
            # Not the parameter but its data: a graph that was recorded before stays valid after.
            weight = getattr(layer, name).data
            key = id(getattr(layer, name))
            if key not in changes:
                values = weight.to("cpu", torch.promote_types(weight.dtype, torch.float32))
                new = perturbation.perturb(values, channel_dim, generator)
                changes[key] = (weight, weight.clone(), new.to(weight))
    if not changes:
        raise ValueError("the model has no forward weights: no Linear, Bilinear, convolution or attention")
    try:
        for weight, _, new in changes.values():
            weight.copy_(new)
        yield
    finally:
        for weight, old, _ in changes.values():
            weight.copy_(old)


def _check_not_negative(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be 0 or more, got {value}")


def _normal(like: Tensor, generator: Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
