"""The backward kernels of norm layers, given a fixed scale.

A norm layer's backward kernel reads the scale for one thing only: to carry the error back to the input. Given
a fixed scale in its place, one call returns all gradients; those of scale and offset do not depend on it.
What the kernel needs is in the graph of the layer's own forward pass, whose last node is the kernel's.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vjp

__all__ = ["Again", "Kernel", "gradients_again", "normalise", "run"]

Gradients = tuple[Tensor | None, ...]
Again = Callable[[Tensor, Tensor | None, Sequence[Tensor]], Tensor]
"""A norm layer as a function of its scale, its offset and its inputs."""


class Kernel(NamedTuple):
    """The backward kernel of one forward pass of a norm layer."""

    call: Callable[..., Gradients]
    """Error, fixed scale, saved tensors and which of the gradients are wanted: those of x, scale, offset."""
    saved: tuple[Tensor | None, ...]
    """The layer's input, as the kernel takes it, and statistics."""


def run(forward: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Kernel | None]:
    """Run a norm layer's own forward; return its output, without a graph, and the kernel that made it.

    The kernel is None if it is not one of those known here.
    """
    if torch._C._autograd._top_saved_tensors_default_hooks(True) is None:
        return _run(forward, x)
    # What this graph saves is no business of anyone's hooks: a checkpoint's would begin its recomputation.
    with torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is):
        return _run(forward, x)


def _run(forward: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Kernel | None]:
    output = forward(x.detach().requires_grad_())
    node: Any = output.grad_fn
    known = _KNOWN.get(node.name())
    return output.detach(), None if known is None else known(node)


def _as_it_is(saved: Tensor) -> Tensor:
    return saved


def normalise(
    x: Tensor,
    scale: Tensor,
    offset: Tensor | None,
    feedback: Tensor,
    output: Tensor,
    kernel: Kernel,
    again: Again,
) -> Tensor:
    """Return a norm layer's output, with a graph whose error goes back through a fixed scale.

    Args:
        x: the layer's input.
        scale: of the forward pass, which is not saved.
        offset: or None.
        feedback: the fixed scale.
        output: the layer's output, and
        kernel: its kernel, as :func:`run` returns them.
        again: the layer as a function that can be differentiated twice, for a backward pass with
            ``create_graph=True``.
    """
    return _Norm.apply(x, scale, offset, output, kernel.call, again, feedback, *kernel.saved)


def gradients_again(
    again: Again, feedback: Tensor, offset: Tensor | None, inputs: Sequence[Tensor], error: Tensor
) -> Gradients:
    """The gradients of scale, offset and inputs, with a graph: those of dx(x, g, γ_B), dγ(x, g) and dβ(g).

    In the layer's own graph γ_B stands for γ, so that γ would receive dx's derivative with respect to γ_B.
    """
    parameters = (feedback,) if offset is None else (feedback, offset)

    def layer(*tensors: Tensor) -> Tensor:
        return again(tensors[0], None if offset is None else tensors[1], tensors[len(parameters) :])

    grads = vjp(layer, *parameters, *inputs)[1](error)
    return grads if offset is not None else (grads[0], None, *grads[1:])


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        offset: Tensor | None,
        output: Tensor,
        call: Callable[..., Gradients],
        again: Again,
        feedback: Tensor,
        *saved: Tensor | None,
    ) -> Tensor:
        ctx.call, ctx.again, ctx.dtype = call, again, x.dtype
        ctx.offset = None if offset is None else offset.detach()
        ctx.save_for_backward(x, feedback, *saved)
        return output.detach()

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> Gradients:
        x, feedback, *saved = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        others = [None] * (len(ctx.needs_input_grad) - 3)
        if torch.is_grad_enabled():
            dscale, doffset, dx = gradients_again(ctx.again, feedback, ctx.offset, [x], error)
            return dx, dscale, doffset, *others
        dx, *rest = ctx.call(error, feedback, saved, wanted)
        dx = dx.to(ctx.dtype) if wanted[0] and dx is not None else None
        return dx, *(g if w else None for g, w in zip(rest, wanted[1:], strict=True)), *others


def _layer_norm(node: Any) -> Kernel:
    shape = node._saved_normalized_shape

    def call(error: Tensor, scale: Tensor, saved: Any, wanted: Any) -> Gradients:
        # The offset counts by its shape only, which is the scale's.
        return torch.ops.aten.native_layer_norm_backward(
            error.to(saved[0].dtype), saved[0], shape, *saved[1:], scale, scale, wanted
        )

    return Kernel(call, (node._saved_input.detach(), node._saved_result1, node._saved_result2))


def _group_norm(node: Any) -> Kernel:
    sizes = node._saved_N, node._saved_C, node._saved_HxW, node._saved_group

    def call(error: Tensor, scale: Tensor, saved: Any, wanted: Any) -> Gradients:
        x = saved[0]
        order = torch.channels_last if x.dim() == 4 and not x.is_contiguous() else torch.contiguous_format
        error = error.to(x.dtype).contiguous(memory_format=order)
        return torch.ops.aten.native_group_norm_backward(error, x, *saved[1:], scale, *sizes, wanted)

    return Kernel(call, (node._saved_input.detach(), node._saved_result1, node._saved_result2))


def _batch_norm(node: Any) -> Kernel:
    training, eps = node._saved_training, node._saved_eps

    def call(error: Tensor, scale: Tensor, saved: Any, wanted: Any) -> Gradients:
        return torch.ops.aten.native_batch_norm_backward(
            error, saved[0], scale, *saved[1:], training, eps, wanted
        )

    # Training reads the batch's statistics, which the kernel returned; evaluation the running ones.
    running = (None, None) if training else (node._saved_running_mean, node._saved_running_var)
    return Kernel(call, (node._saved_input.detach(), *running, node._saved_result1, node._saved_result2))


_KNOWN: dict[str, Callable[[Any], Kernel]] = {
    "NativeLayerNormBackward0": _layer_norm,
    "NativeGroupNormBackward0": _group_norm,
    "NativeBatchNormBackward0": _batch_norm,
}
