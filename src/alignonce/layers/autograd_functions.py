"""The autograd functions of layers: forwards with W, backwards with B, dense or compressed.

Each saves its inputs and B, never W. Backward passes are made of operations that can be differentiated
again: the second derivatives are those of dW(x, g), db(g) and dx(g, B), in which x and g vary and B does not.

Outputs are no views, or they could not be changed in place, as by ``nn.ReLU(inplace=True)``.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from alignonce.formats.base import FeedbackFormat, Stored, gathered, needs_plain_operations
from alignonce.formats.compressed import Compressed, as_matrix

__all__ = ["CarryBilinear", "CarryConvolution", "CarryLinear", "Substitute"]


class CarryLinear(torch.autograd.Function):
    """y = W·x + b: x (*, in), W and B (out, in), y (*, out); B as a tensor if ``format`` is None."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: Tensor, weight: Tensor, bias: Tensor | None, format: FeedbackFormat | None, *feedback: Tensor
    ) -> Tensor:
        """Compute y."""
        output = F.linear(input, weight, bias)
        return output if input.dim() == 2 else output.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep x for W's gradient and B for x's."""
        input, weight, _, ctx.format, *feedback = inputs
        needs_input, needs_weight, *_ = ctx.needs_input_grad
        ctx.shape = weight.shape
        ctx.save_for_backward(input if needs_weight else None, *(feedback if needs_input else ()))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Two products and a sum."""
        input, *feedback = ctx.saved_tensors
        needs_input, needs_weight, needs_bias, *others = ctx.needs_input_grad
        rows = _rows(grad)
        grad_input = None
        if needs_input:
            if ctx.format is None:
                grad_input = rows.mm(gathered(feedback[0]))
            else:
                grad_input = _product(rows, ctx.format, tuple(feedback), ctx.shape)
            if grad.dim() != 2:
                grad_input = grad_input.view(*grad.shape[:-1], ctx.shape[1])
        grad_weight = rows.t().mm(_rows(input)) if needs_weight else None
        return grad_input, grad_weight, rows.sum(0) if needs_bias else None, *[None] * len(others)


class CarryBilinear(torch.autograd.Function):
    """y[o] = Σ x1[i]·W[o, i, j]·x2[j] + b[o]: x1 (*, in1), x2 (*, in2), y (*, out)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        input1: Tensor,
        input2: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        format: FeedbackFormat | None,
        *feedback: Tensor,
    ) -> Tensor:
        """Compute y."""
        return F.bilinear(input1, input2, weight, bias).detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep both inputs, each of which is in the other's gradient, and B."""
        input1, input2, weight, _, ctx.format, *feedback = inputs
        ctx.shape = weight.shape
        ctx.save_for_backward(input1, input2, *feedback)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Multiply the error by B, and the product by the other input."""
        # Products of matrices, since einsum has no rule for batched gradients (is_grads_batched=True).
        input1, input2, *feedback = ctx.saved_tensors
        needs1, needs2, needs_weight, needs_bias, *others = ctx.needs_input_grad
        rows, rows1, rows2 = _rows(grad), _rows(input1), _rows(input2)
        grad1 = grad2 = grad_weight = None
        if needs1 or needs2:
            if ctx.format is None:
                back = rows.mm(gathered(feedback[0]).flatten(1))
            else:
                back = _product(rows, ctx.format, tuple(feedback), as_matrix(ctx.shape))
            back = back.reshape(-1, *ctx.shape[1:])  # (N, in1, in2)
            grad1 = torch.bmm(back, rows2.unsqueeze(2)).reshape(input1.shape) if needs1 else None
            grad2 = torch.bmm(rows1.unsqueeze(1), back).reshape(input2.shape) if needs2 else None
        if needs_weight:
            products = (rows1.unsqueeze(2) * rows2.unsqueeze(1)).flatten(1)  # (N, in1 * in2)
            grad_weight = rows.t().mm(products).reshape(ctx.shape)
        grad_bias = rows.sum(0) if needs_bias else None
        return grad1, grad2, grad_weight, grad_bias, *[None] * len(others)


class CarryConvolution(torch.autograd.Function):
    """Convolutions and transposed ones: x (N, in, *spatial), y (N, out, *spatial')."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        format: FeedbackFormat | None,
        geometry: tuple[Any, ...],
        *feedback: Tensor,
    ) -> Tensor:
        """Compute y."""
        return torch.convolution(input, weight, bias, *geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep x, for W's gradient and for its shape, and B."""
        input, weight, bias, ctx.format, ctx.geometry, *feedback = inputs
        ctx.shape, ctx.input_shape, ctx.order = weight.shape, input.shape, _order(input)
        ctx.bias_sizes = None if bias is None else list(bias.shape)
        _, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        keeps_input = ctx.format is None or needs_weight or needs_bias
        ctx.save_for_backward(input if keeps_input else None, *feedback)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The fused call that PyTorch itself uses, with B in W's place, or without what B is needed for."""
        input, *feedback = ctx.saved_tensors
        needs_input, needs_weight, needs_bias, *others = ctx.needs_input_grad
        grad_input = grad_weight = grad_bias = None
        # The weight's gradient does not depend on the weight, so that one fused call, given B, returns
        # all three gradients of which only the input's reads B.
        fused = ctx.format is None
        if fused or needs_weight or needs_bias:
            given = gathered(feedback[0]) if fused else grad.new_empty(()).expand(ctx.shape)  # not read
            grad_input, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
                grad, input, given, ctx.bias_sizes, *ctx.geometry,
                [needs_input and fused, needs_weight, needs_bias],
            )  # fmt: skip
        if needs_input and not fused:
            b = Compressed(ctx.format, tuple(feedback), ctx.shape)
            grad_input = _convolve_back(grad, b, ctx.input_shape, ctx.geometry, ctx.order)
        return grad_input, grad_weight, grad_bias, *[None] * len(others)


class Substitute(torch.autograd.Function):
    """Another value in place of a tensor, to which the gradient goes unchanged."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor, value: Tensor) -> Tensor:
        """Return the value."""
        return value.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Hand the gradient on."""
        return grad, None


class _Product(torch.autograd.Function):
    """A format's product e·B, with the derivative of the one that it stands for: some formats round e."""

    @staticmethod
    def forward(ctx: Any, error: Tensor, format: FeedbackFormat, shape: Any, *stored: Tensor) -> Tensor:
        ctx.format, ctx.shape = format, shape
        ctx.save_for_backward(*stored)
        return format.product(error, stored, shape).to(error.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dense = ctx.format.dense(ctx.saved_tensors, ctx.shape).to(grad.dtype)
        return grad @ dense.t(), None, None, *[None] * len(ctx.saved_tensors)


def _product(rows: Tensor, format: FeedbackFormat, stored: Stored, shape: tuple[int, int]) -> Tensor:
    """Errors (N, out) times B as a matrix, in the errors' dtype."""
    if not is_compiling():
        if forward_ad._current_level >= 0:  # the kernels of formats have no forward derivatives
            return FeedbackFormat.product(format, rows, stored, shape).to(rows.dtype)
        if torch.is_grad_enabled() and rows.requires_grad and not needs_plain_operations():
            return _Product.apply(rows, format, shape, *stored)
    return format.product(rows, stored, shape).to(rows.dtype)


def _convolve_back(
    grad: Tensor, b: Compressed, input_shape: Any, geometry: tuple[Any, ...], order: torch.memory_format
) -> Tensor:
    """Convolve the error with B's two factors if it has any, else with B; in the error's dtype."""
    transposed, groups = geometry[3], geometry[5]
    factors = b.format.factors(b.tensors) if groups == 1 else None
    if factors is None:
        return _error_of_input(grad, input_shape, b.to_dense(), geometry, order).to(grad.dtype)
    left, right = factors
    rank, kernel = right.shape[0], right.view(-1, *b.shape[1:])
    if transposed:  # B is (in, out, *kernel): the factor with the kernel comes first
        shape = (input_shape[0], rank, *input_shape[2:])
        middle = _error_of_input(grad, shape, kernel, geometry, order)
        return _mix_channels(middle, left).to(grad.dtype)
    middle = _mix_channels(grad, left.t())
    return _error_of_input(middle, input_shape, kernel, geometry, order).to(grad.dtype)


def _mix_channels(x: Tensor, matrix: Tensor) -> Tensor:
    """(N, c, *spatial) to (N, c', *spatial) by a matrix (c', c): a 1x1 convolution."""
    dims = x.dim() - 2
    x = x.to(matrix.dtype) if matrix.dtype in (torch.bfloat16, torch.float16) else x
    kernel = matrix.to(x.dtype).reshape(*matrix.shape, *[1] * dims)
    return torch.convolution(x, kernel, None, [1] * dims, [0] * dims, [1] * dims, False, [0] * dims, 1)


def _error_of_input(
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
    """The order of a batch (N, channels, *spatial) in memory, as the kernels of convolutions see it."""
    # By its strides, since vmap cannot answer is_contiguous(memory_format=...).
    if x.dim() in (4, 5) and x.stride(1) == 1:
        return torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return torch.contiguous_format


def _rows(x: Tensor) -> Tensor:
    if x.dim() == 2:
        return x
    # reshape, since flatten has no rule for batched gradients (is_grads_batched=True)
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
