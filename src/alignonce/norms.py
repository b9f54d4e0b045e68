"""Norm layers that carry the error back through a fixed value of their scale.

y = x̂·γ + β, where x̂ is the input, normalised. Backpropagation carries the error to x̂ through γ, which is
weight transport: of one number per channel, but transport. Here γ_B, the value that γ had when the learning
rule was set, stands in γ's place; the gradients of γ and β stay exact, since they do not depend on γ.

The layer's own forward runs twice: with γ, for the value, without a graph; and with γ_B, for the graph. The
gradient that arrives at γ_B there is that of γ, and is handed on to it. So the value is the plain layer's to
the bit, γ is never saved for the backward pass, and nothing about a layer needs to be known but that its
output is linear in its scale.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alignonce import functional
from alignonce.layers import FeedbackLayer, random_like, register_kind
from alignonce.rules import LearningRule

__all__ = ["FeedbackNorm", "FixedScale", "norm_kind"]


@dataclass(frozen=True)
class FixedScale(LearningRule):
    """The rule of norm layers with ``norms="fixed"``: γ_B is a copy of γ, all zero allowed, and stays fixed.

    A residual block whose last scale starts at zero learns that scale first, as with backpropagation, but its
    γ_B of zero then keeps errors out of the block for good.
    """

    def feedback_for(self, weight: Tensor, name: str, depth: int) -> Tensor:
        """Copy the scale γ.

        Args:
            weight: γ.
            name: its name in the model.
            depth: not used.

        Returns:
            γ_B, sharing no memory with γ.

        Raises:
            ValueError: if γ holds NaN or infinity.
        """
        if not torch.isfinite(weight).all():
            raise ValueError(f"the scale {name!r} holds NaN or infinite values")
        return self._feedback(weight.detach(), name, depth)

    def _feedback(self, w: Tensor, name: str, depth: int) -> Tensor:
        return w.clone()


class FeedbackNorm(FeedbackLayer):
    """A norm layer whose error goes back through ``feedback``, a fixed value of its scale ``weight``."""

    is_norm = True
    has_equivalents = True
    weight: nn.Parameter
    feedback: Tensor

    @classmethod
    def sample_arguments(cls, layer: nn.Module) -> Iterator[tuple[Any, ...]]:
        """Inputs normalised over their last dimensions, or over the channels of sequences, images, videos."""
        shape = tuple(layer.get_parameter("weight").shape)
        for before, after in [
            ((2, 3), ()), ((2,), (3, 3)), ((2,), (3,)), ((2,), (3, 3, 3)), ((2, 3), (3,)), ((2, 3), (3, 3)),
        ]:  # fmt: skip
            yield (random_like(layer, (*before, *shape, *after)),)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Normalise as the plain layer does, whose arguments and shapes these are."""
        if self.exact or not torch.is_grad_enabled():
            return super().forward(*args, **kwargs)
        with torch.no_grad():
            output = super().forward(*args, **kwargs)
        scale = functional.substitute(self.weight, self.feedback)
        return functional.substitute(self._twin(weight=scale).forward(*args, **kwargs), output)

    def _twin(self, **attributes: Tensor | None) -> nn.Module:
        """The plain layer, sharing everything with this one but the given attributes."""
        plain_class = type(self).plain_class
        twin = plain_class.__new__(plain_class)
        # An instance's own attribute comes before nn.Module's look-up of parameters and buffers.
        twin.__dict__ = {**self.__dict__, **attributes}
        return twin


class _FeedbackRunningNorm(FeedbackNorm):
    def _twin(self, **attributes: Tensor | None) -> nn.Module:
        if self.training:  # the pass for the value has updated the running statistics, which are not read
            attributes |= {"running_mean": None, "running_var": None, "num_batches_tracked": None}
        return super()._twin(**attributes)


def norm_kind(plain_class: type[nn.Module], base: type[FeedbackNorm] = FeedbackNorm) -> type[FeedbackLayer]:
    """Make the kind of feedback layer for a class of norm layers, and make it known to the conversion.

    Args:
        plain_class: a norm layer whose output is linear in its parameter ``weight`` (an offset to the weight,
            a gate or a bias does no harm) and which computes nothing at random.
        base: what the kind derives from.

    Returns:
        The kind.
    """
    name = f"Feedback{plain_class.__name__}"
    members = {"plain_class": plain_class, "__module__": plain_class.__module__}
    return register_kind(type(name, (base, plain_class), members))


_STATELESS: tuple[type[nn.Module], ...] = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_RUNNING: tuple[type[nn.Module], ...] = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip
for _plain in _STATELESS:
    norm_kind(_plain)
for _plain in _RUNNING:
    norm_kind(_plain, _FeedbackRunningNorm)
