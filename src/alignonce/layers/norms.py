"""Norm layers that carry the error back through a fixed value of their scale.


y = x̂·γ + β, where x̂ is the input, normalised. Backpropagation carries the error to x̂ through γ, which is
weight transport: of one number per channel, but transport. Here γ_B, the value that γ had when the learning
rule was set, stands in γ's place; the gradients of γ and β stay exact, since they do not depend on γ.

Where PyTorch has one kernel for the layer's backward pass, it is given γ_B (fused_norms.py). Elsewhere the
layer's own forward runs twice: with γ, for the value, without a graph; and with γ_B, for the
graph. The gradient that arrives at γ_B there is that of γ, and is handed on to it. So nothing about a layer
needs to be known but that its output is linear in its scale. Either way the value is the plain layer's to the
bit, and γ is never saved for the backward pass.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from alignonce.formats.base import needs_plain_operations
from alignonce.layers import functional, fused_norms
from alignonce.layers.base import FeedbackLayer, random_like
from alignonce.layers.kinds import register_kind
from alignonce.layers.modes import runs_exactly

__all__ = ["FeedbackNorm", "norm_kind"]


class _Normalised(torch.autograd.Function):
    """The value in place of the graph's, to which the error goes on.

    The derivatives of gradients are those of dx(x, g, γ_B), dγ(x, g) and dβ(g). In the graph γ_B stands for
    γ, so that γ would receive dx's derivative with respect to γ_B. If gradients are to be differentiated
    again, they are therefore computed apart from the graph.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        graph: Tensor, value: Tensor, again: Callable[..., Tensor],
        weight: Tensor, bias: Tensor | None, feedback: Tensor, *inputs: Tensor,
    ) -> Tensor:  # fmt: skip
        return value.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, _, ctx.again, _, bias, feedback, *tensors = inputs
        ctx.bias = None if bias is None else bias.detach()
        ctx.save_for_backward(feedback, *tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if not torch.is_grad_enabled():
            return grad, *[None] * (len(ctx.needs_input_grad) - 1)
        feedback, *inputs = ctx.saved_tensors
        of_parameters = fused_norms.gradients_again(ctx.again, feedback, ctx.bias, inputs, grad)
        return None, None, None, *of_parameters[:2], None, *of_parameters[2:]


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
        if runs_exactly(self) or not torch.is_grad_enabled():
            return super().forward(*args, **kwargs)
        parameters = self.weight, self._parameters.get("bias"), self.feedback
        if not (is_compiling() or needs_plain_operations()) and len(args) == 1 and not kwargs:
            output, kernel = fused_norms.run(super().forward, args[0])
            if kernel is not None:
                training = self.training

                def once_more(scale: Tensor, bias: Tensor | None, inputs: Sequence[Tensor]) -> Tensor:
                    return self._twin(training=training, weight=scale, bias=bias).forward(*inputs)

                return fused_norms.normalise(args[0], *parameters, output, kernel, once_more)
        else:
            with torch.no_grad():
                output = super().forward(*args, **kwargs)
        twin = self._twin(weight=functional.substitute(self.weight, self.feedback))
        graph = twin.forward(*args, **kwargs)
        if is_compiling() or forward_ad._current_level >= 0:
            return functional.substitute(graph, output)  # no second derivatives there, or by forward mode
        values = [*args, *kwargs.values()]
        places = [i for i, v in enumerate(values) if isinstance(v, Tensor) and v.is_floating_point()]

        def again(scale: Tensor, bias: Tensor | None, inputs: Sequence[Tensor]) -> Tensor:
            vars(twin).update(weight=scale, bias=bias)
            for place, tensor in zip(places, inputs, strict=True):
                values[place] = tensor
            return twin.forward(*values[: len(args)], **dict(zip(kwargs, values[len(args) :], strict=True)))

        return functional.apply(_Normalised, graph, output, again, *parameters, *(values[i] for i in places))

    def _twin(self, **attributes: Any) -> nn.Module:
        """The plain layer, sharing everything with this one but the given attributes."""
        plain_class = type(self).plain_class
        twin = plain_class.__new__(plain_class)
        # An instance's own attribute comes before nn.Module's look-up of parameters and buffers.
        vars(twin).update(vars(self), **attributes)  # not past nn.Module.__setattr__, which takes longer
        return twin


class _FeedbackRunningNorm(FeedbackNorm):
    def _twin(self, **attributes: Any) -> nn.Module:
        # In training the pass for the value has updated the running statistics, which are not read.
        if attributes.get("training", self.training):
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
