"""Layer operations whose backward pass reads a feedback weight B in place of the forward weight W.

Every operation computes the same value as its PyTorch namesake. In the backward pass the gradients of W
and of the bias are backpropagation's own, since they depend on the input and the output error only; the
gradient of the input is backpropagation's with B where W would stand (Lillicrap et al. 2016,
doi:10.1038/ncomms13276; one-time soft alignment: Cheon et al. 2025, arXiv 2505.20892). W is never saved
for the backward pass, so no weight transport is possible.

B has the shape and device of W and never receives a gradient. It is a tensor of W's dtype, or compressed
(:mod:`alignonce.formats`). The functions of autograd that do so are in autograd_functions.py.
"""

import warnings
from collections.abc import Sequence
from functools import reduce
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from alignonce.formats.compressed import Feedback
from alignonce.layers.autograd_functions import CarryBilinear, CarryConvolution, CarryLinear, Substitute
from alignonce.layers.forward_mode import with_jvp

__all__ = ["Feedback", "bilinear", "conv", "conv_transpose", "linear", "substitute"]

Size = int | Sequence[int]


def linear(input: Tensor, weight: Tensor, feedback: Feedback, bias: Tensor | None = None) -> Tensor:
    """Apply a linear map forwards with W and carry the error back with B.

    Args:
        input: (*, in_features), with any number of leading dimensions, none included.
        weight: the forward weight W, (out_features, in_features).
        feedback: the feedback weight B, of W's shape, as a tensor or compressed.
        bias: (out_features,) or None.

    Returns:
        (*, out_features).

    Raises:
        ValueError: if ``feedback`` has not the shape of ``weight``.
    """
    _check_feedback(weight, feedback)
    if not isinstance(feedback, Tensor):
        input, weight, bias = _autocast(input, weight, bias)
        return apply(CarryLinear, input, weight, bias, feedback.format, *feedback.tensors)
    if feedback.dtype != weight.dtype:  # a part of one that a format holds in another dtype
        feedback = feedback.to(weight.dtype)
    input, weight, feedback, bias = _autocast(input, weight, feedback, bias)
    return apply(CarryLinear, input, weight, bias, None, feedback)


def bilinear(
    input1: Tensor, input2: Tensor, weight: Tensor, feedback: Feedback, bias: Tensor | None = None
) -> Tensor:
    """Apply a bilinear map forwards with W and carry the error back to both inputs with B.

    Args:
        input1: (*, in1_features).
        input2: (*, in2_features), with the leading dimensions of ``input1``.
        weight: the forward weight W, (out_features, in1_features, in2_features).
        feedback: the feedback weight B, of W's shape, as a tensor or compressed.
        bias: (out_features,) or None.

    Returns:
        (*, out_features).

    Raises:
        ValueError: if ``feedback`` has not the shape of ``weight``.
    """
    _check_feedback(weight, feedback)
    if input1 is input2:
        input2 = input2.view_as(input2)  # the compiler takes no tensor twice
    if not isinstance(feedback, Tensor):
        input1, input2, weight, bias = _promote(input1, input2, weight, bias)
        return apply(CarryBilinear, input1, input2, weight, bias, feedback.format, *feedback.tensors)
    input1, input2, weight, feedback, bias = _promote(input1, input2, weight, feedback, bias)
    return apply(CarryBilinear, input1, input2, weight, bias, None, feedback)


def conv(
    input: Tensor,
    weight: Tensor,
    feedback: Feedback,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    """Convolve in 1, 2 or 3 spatial dimensions with W and carry the error back with B.

    Args:
        input: (N, in_channels, *spatial), or without N.
        weight: the forward weight W, (out_channels, in_channels / groups, *kernel); the length of
            ``kernel`` says how many spatial dimensions there are.
        feedback: the feedback weight B, of W's shape, as a tensor or compressed.
        bias: (out_channels,) or None.
        stride: one number for all spatial dimensions, or one each; likewise ``dilation``.
        padding: the same, or ``"valid"`` (none) or ``"same"`` (output size = input size; stride 1 only).
        dilation: the spacing between kernel elements.
        groups: number of groups that the channels are split into.
        padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.

    Returns:
        (N, out_channels, *spatial'), or without N.

    Raises:
        ValueError: if ``feedback`` has not the shape of ``weight``, or ``padding`` is not one of the above,
            or a setting is for another number of dimensions.
    """
    _check_feedback(weight, feedback)
    dims = weight.dim() - 2
    stride, dilation = _per_dim(stride, dims, "stride"), _per_dim(dilation, dims, "dilation")
    before, after = _padding(padding, weight.shape[2:], stride, dilation)
    if padding_mode != "zeros" or before != after:
        # F.pad wants the last dimension first; the convolution itself can only pad with zeros, evenly.
        widths = list(chain.from_iterable(zip(reversed(before), reversed(after), strict=True)))
        input = F.pad(input, widths, mode="constant" if padding_mode == "zeros" else padding_mode)
        before = [0] * dims
    return _convolve(input, weight, feedback, bias, stride, before, dilation, False, [0] * dims, groups)


def conv_transpose(
    input: Tensor,
    weight: Tensor,
    feedback: Feedback,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """Apply a transposed convolution in 1, 2 or 3 spatial dimensions with W; carry the error back with B.

    Args:
        input: (N, in_channels, *spatial), or without N.
        weight: the forward weight W, (in_channels, out_channels / groups, *kernel).
        feedback: the feedback weight B, of W's shape, as a tensor or compressed.
        bias: (out_channels,) or None.
        stride: one number for all spatial dimensions, or one each; likewise the other sizes.
        padding: zero padding that is removed from the output.
        output_padding: extra size on one side of the output.
        groups: number of groups that the channels are split into.
        dilation: the spacing between kernel elements.

    Returns:
        (N, out_channels, *spatial'), or without N.

    Raises:
        ValueError: if ``feedback`` has not the shape of ``weight``, or a setting is for another number of
            dimensions.
    """
    _check_feedback(weight, feedback)
    dims = weight.dim() - 2
    stride, padding = _per_dim(stride, dims, "stride"), _per_dim(padding, dims, "padding")
    output_padding = _per_dim(output_padding, dims, "output_padding")
    dilation = _per_dim(dilation, dims, "dilation")
    return _convolve(input, weight, feedback, bias, stride, padding, dilation, True, output_padding, groups)


def substitute(tensor: Tensor, value: Tensor) -> Tensor:
    """Give another value in place of a tensor, whose gradient goes to the tensor unchanged.

    Args:
        tensor: what receives the gradient; its value does not count and is not saved.
        value: the value, of the same shape and dtype; it receives no gradient.

    Returns:
        ``value``, sharing its memory.
    """
    return apply(Substitute, tensor, value)


def _convolve(
    input: Tensor,
    weight: Tensor,
    feedback: Feedback,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Tensor:
    batched = input.dim() == weight.dim()
    if not batched:
        input = input.unsqueeze(0)
    geometry = stride, padding, dilation, transposed, output_padding, groups
    if isinstance(feedback, Tensor):
        input, weight, feedback, bias = _autocast(input, weight, feedback, bias)
        output = apply(CarryConvolution, input, weight, bias, None, geometry, feedback)
    else:
        input, weight, bias = _autocast(input, weight, bias)
        output = apply(CarryConvolution, input, weight, bias, feedback.format, geometry, *feedback.tensors)
    return output if batched else output.squeeze(0)


def apply(function: type[torch.autograd.Function], *args: Any) -> Tensor:
    """``function.apply(*args)`` without its 30 µs of argument binding where nothing needs them.

    ``Function.apply`` binds the arguments by ``inspect.signature`` on each call, to fill in default values
    (there are none here) and to serve functorch and the compiler. For small layers that costs more than
    the layer, so that a plain eager call goes to the next class up, which does the work.
    """
    if is_compiling():
        if torch.compiler.is_exporting():
            warnings.warn(
                "torch.export of layers with a learning rule keeps their values, not their backward passes: "
                "the exported program is for inference, its gradients are not those of the rule",
                stacklevel=2,
            )
        if not torch.is_grad_enabled() or not any(isinstance(a, Tensor) and a.requires_grad for a in args):
            return function.forward(*args)  # which the compiler would do with one argument too many
        return function.apply(*args)
    if forward_ad._current_level >= 0:
        return with_jvp(function).apply(*args)
    if torch._C._are_functorch_transforms_active():
        return function.apply(*args)
    return super(torch.autograd.Function, function).apply(*args)  # type: ignore[misc]


def _autocast(*tensors: Tensor | None) -> tuple[Any, ...]:
    """Cast as autocast would cast for a matrix product, but where autograd sees it.

    Inside ``Function.forward`` autocast would cast for the forward pass only and leave the backward pass
    with an error and a saved input of two dtypes.
    """
    device = tensors[0].device.type  # type: ignore[union-attr]
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(
        t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t
        for t in tensors
    )


def _promote(*tensors: Tensor | None) -> tuple[Any, ...]:
    """Cast as autocast would cast for ``F.bilinear``: to the widest dtype among the tensors."""
    device = tensors[0].device.type  # type: ignore[union-attr]
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = reduce(torch.promote_types, (t.dtype for t in tensors if t is not None))
    return tuple(None if t is None else t.to(dtype) for t in tensors)


def _check_feedback(weight: Tensor, feedback: Feedback) -> None:
    if feedback.shape != weight.shape:
        raise ValueError(
            f"feedback must have the shape of weight, {tuple(weight.shape)}, got {tuple(feedback.shape)}. If "
            "the weight was resized or replaced after the learning rule was set (resize_token_embeddings), "
            "call set_learning_rule again"
        )


def _per_dim(size: Size, dims: int, name: str) -> list[int]:
    sizes = [size] * dims if isinstance(size, int) else list(size)
    if len(sizes) == 1:
        sizes *= dims
    if len(sizes) != dims:
        raise ValueError(f"{name} must be one number or {dims}, one per spatial dimension, got {size}")
    return sizes


def _padding(
    padding: Size | str, kernel: Sequence[int], stride: list[int], dilation: list[int]
) -> tuple[list[int], list[int]]:
    """Zeros before and after each spatial dimension; 'same' puts an odd one after, as PyTorch does."""
    if not isinstance(padding, str):
        even = _per_dim(padding, len(kernel), "padding")
        return even, even
    if padding == "valid":
        return [0] * len(kernel), [0] * len(kernel)
    if padding != "same":
        raise ValueError(f"padding must be a number, one per dimension, 'same' or 'valid', got {padding!r}")
    if any(s != 1 for s in stride):
        raise ValueError(f"padding='same' needs stride 1, got stride {tuple(stride)}")
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    return [t // 2 for t in total], [t - t // 2 for t in total]
