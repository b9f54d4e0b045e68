"""Identities that carry the error of a layer back to its input through a compressed feedback weight.

Each takes a layer's input and its output, which was computed without the input's graph, and returns the
output. Backwards the error goes unchanged to the output, whose graph gives the gradients of W and the bias,
and through B to the input.
"""

from typing import Any

import torch
from torch import Tensor

from alignonce.formats.base import FeedbackFormat
from alignonce.formats.compressed import Compressed, as_matrix

__all__ = ["CarryBilinear", "CarryConvolution"]


class CarryBilinear(torch.autograd.Function):
    """For y[o] = Σ x1[i]·W[o, i, j]·x2[j]: x1 (*, in1), x2 (*, in2), y (*, out), B (out, in1, in2)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        input1: Tensor,
        input2: Tensor,
        output: Tensor,
        format: FeedbackFormat,
        shape: tuple[int, int, int],
        *stored: Tensor,
    ) -> Tensor:
        """Return the output."""
        return output.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep B and both inputs, each of which is in the other's gradient."""
        input1, input2, _, ctx.format, ctx.shape, *stored = inputs
        ctx.save_for_backward(input1, input2, *stored)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Multiply the error by B, and the product by the other input."""
        input1, input2, *stored = ctx.saved_tensors
        needs1, needs2, *_ = ctx.needs_input_grad
        grad1 = grad2 = None
        if needs1 or needs2:
            rows = grad.reshape(-1, grad.shape[-1])
            back = ctx.format.product(rows, tuple(stored), as_matrix(ctx.shape)).to(grad.dtype)
            back = back.reshape(-1, *ctx.shape[1:])  # (N, in1, in2)
            rows1, rows2 = (x.reshape(-1, x.shape[-1]).to(grad.dtype) for x in (input1, input2))
            if needs1:
                grad1 = torch.bmm(back, rows2.unsqueeze(2)).reshape(input1.shape).to(input1.dtype)
            if needs2:
                grad2 = torch.bmm(rows1.unsqueeze(1), back).reshape(input2.shape).to(input2.dtype)
        return grad1, grad2, grad, *[None] * (2 + len(stored))


class CarryConvolution(torch.autograd.Function):
    """For convolutions and transposed ones: x (N, in, *spatial), y (N, out, *spatial'), B of W's shape."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: Tensor,
        output: Tensor,
        format: FeedbackFormat,
        shape: tuple[int, ...],
        geometry: tuple[Any, ...],
        *stored: Tensor,
    ) -> Tensor:
        """Return the output."""
        return output.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep B and what is to be known of the input."""
        input, _, ctx.format, ctx.shape, ctx.geometry, *stored = inputs
        ctx.input_shape, ctx.dtype, ctx.order = input.shape, input.dtype, _order(input)
        ctx.save_for_backward(*stored)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Convolve the error with B's two factors if it has any, else with B."""
        stored = ctx.saved_tensors
        grad_input = None
        if ctx.needs_input_grad[0]:
            b = Compressed(ctx.format, stored, ctx.shape)
            transposed, groups = ctx.geometry[3], ctx.geometry[5]
            factors = ctx.format.factors(b.tensors) if groups == 1 else None
            if factors is None:
                grad_input = _convolve_back(grad, ctx.input_shape, b.to_dense(), ctx.geometry, ctx.order)
            else:
                left, right = factors
                rank, kernel = right.shape[0], right.view(-1, *ctx.shape[1:])
                if transposed:  # B is (in, out, *kernel): the factor with the kernel comes first
                    shape = (ctx.input_shape[0], rank, *ctx.input_shape[2:])
                    middle = _convolve_back(grad, shape, kernel, ctx.geometry, ctx.order)
                    grad_input = _mix_channels(middle, left)
                else:
                    middle = _mix_channels(grad, left.t())
                    grad_input = _convolve_back(middle, ctx.input_shape, kernel, ctx.geometry, ctx.order)
            grad_input = grad_input.to(ctx.dtype)
        return grad_input, grad, *[None] * (3 + len(stored))


def _mix_channels(x: Tensor, matrix: Tensor) -> Tensor:
    """(N, c, *spatial) to (N, c', *spatial) by a matrix (c', c): a 1x1 convolution."""
    dims = x.dim() - 2
    x = x.to(matrix.dtype) if matrix.dtype in (torch.bfloat16, torch.float16) else x
    kernel = matrix.to(x.dtype).reshape(*matrix.shape, *[1] * dims)
    return torch.convolution(x, kernel, None, [1] * dims, [0] * dims, [1] * dims, False, [0] * dims, 1)


def _convolve_back(
    grad: Tensor, input_shape: Any, weight: Tensor, geometry: tuple[Any, ...], order: torch.memory_format
) -> Tensor:
    """The gradient of a convolution's input, in the weight's dtype if that is of 16 bits."""
    grad = grad.to(weight.dtype) if weight.dtype in (torch.bfloat16, torch.float16) else grad
    # The input counts by its shape and its order in memory, which becomes the result's. In another order
    # than the input's own, all layers before would work on errors that do not fit theirs, which costs more
    # than compression saves.
    input = torch.empty(input_shape, dtype=grad.dtype, device=grad.device, memory_format=order)
    mask = [True, False, False]
    return torch.ops.aten.convolution_backward(grad, input, weight.to(grad.dtype), None, *geometry, mask)[0]


def _order(x: Tensor) -> torch.memory_format:
    """The order of a batch (N, channels, *spatial) in memory, as the kernels of convolutions tell it."""
    # By its strides, since vmap cannot answer is_contiguous(memory_format=...).
    if x.dim() in (4, 5) and x.stride(1) == 1:
        return torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return torch.contiguous_format
