"""Norm layers that carry the error back through a fixed value of their scale.

y = x̂·γ + β, where x̂ is the input, normalised. Backpropagation carries the error to x̂ through γ, which is
weight transport: of one number per channel, but transport. Here γ_B, the value that γ had when the learning
rule was set, stands in γ's place; the gradients of γ and β stay exact, since they do not depend on γ.

The layer's own forward runs twice: with γ, for the value, without a graph; and with γ_B, for the graph. The
gradient that arrives at γ_B there is that of γ, and is handed on to it. So the value is the plain layer's to
the bit, γ is never saved for the backward pass, and nothing about a layer needs to be known but that its
output is linear in its scale.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.func import vjp

from alignonce import functional
from alignonce.layers import FeedbackLayer, register_kind
from alignonce.modes import runs_exactly
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


class _Normalised(torch.autograd.Function):
    """The value in place of the graph's, to which the error goes on.

    The derivatives of gradients are those of dx(x, g, γ_B), dγ(x, g) and dβ(g). In the graph γ_B stands for
    γ, so that γ would receive dx's derivative with respect to γ_B. If gradients are to be differentiated
    again, they are therefore computed apart from the graph.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        graph: Tensor, value: Tensor, twin: nn.Module, names: tuple[str, ...],
        bias: Tensor | None, scale: Tensor, *inputs: Any,
    ) -> Tensor:  # fmt: skip
        return value.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, _, ctx.twin, ctx.names, bias, *given = inputs
        ctx.has_bias = bias is not None
        ctx.given = [None if isinstance(value, Tensor) else value for value in given]
        ctx.save_for_backward(*(value if isinstance(value, Tensor) else None for value in given))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if not torch.is_grad_enabled():
            return grad, *[None] * (4 + len(ctx.given))
        values = [g if t is None else t for g, t in zip(ctx.given, ctx.saved_tensors, strict=True)]
        values[0] = scale = values[0].detach()  # γ_B, without the way that gradients take to γ
        values.insert(1, torch.zeros_like(scale) if ctx.has_bias else None)  # which one does not matter
        varied = [i for i, v in enumerate(values) if isinstance(v, Tensor) and v.is_floating_point()]

        def forward(*tensors: Tensor) -> Tensor:
            for i, tensor in zip(varied, tensors, strict=True):
                values[i] = tensor
            scale, bias, *inputs = values
            vars(ctx.twin).update(weight=scale, bias=bias)
            count = len(inputs) - len(ctx.names)
            return ctx.twin.forward(*inputs[:count], **dict(zip(ctx.names, inputs[count:], strict=True)))

        grads = vjp(forward, *(values[i] for i in varied))[1](grad)
        found = dict(zip(varied, grads, strict=True))
        of_inputs = (found.get(i) for i in range(2, len(values)))
        return None, None, None, None, found.get(1), found[0], *of_inputs


class FeedbackNorm(FeedbackLayer):
    """A norm layer whose error goes back through ``feedback``, a fixed value of its scale ``weight``."""

    is_norm = True
    weight: nn.Parameter
    feedback: Tensor

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Normalise as the plain layer does, whose arguments and shapes these are."""
        if runs_exactly(self) or not torch.is_grad_enabled():
            return super().forward(*args, **kwargs)
        with torch.no_grad():
            output = super().forward(*args, **kwargs)
        scale = functional.substitute(self.weight, self.feedback)
        twin = self._twin(weight=scale)
        graph = twin.forward(*args, **kwargs)
        if is_compiling() or forward_ad._current_level >= 0:
            return functional.substitute(graph, output)  # no second derivatives there, or by forward mode
        inputs = self._parameters.get("bias"), scale, *args, *kwargs.values()
        return functional.apply(_Normalised, graph, output, twin, tuple(kwargs), *inputs)

    def _twin(self, **attributes: Tensor | None) -> nn.Module:
        """The plain layer, sharing everything with this one but the given attributes."""
        plain_class = type(self).plain_class
        twin = plain_class.__new__(plain_class)
        # An instance's own attribute comes before nn.Module's look-up of parameters and buffers.
        vars(twin).update(vars(self), **attributes)  # not past nn.Module.__setattr__, which takes longer
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
