"""The core operations against independent references, and what they save, return and refuse."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from alignonce.layers import functional
from helpers import references
from helpers.references import Expected

# torch's own, once in a process, whichever test meets it first
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")

F_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
NN_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@dataclass(frozen=True)
class Case:
    """An operation with fixed settings: ``ours(*inputs, W, B, bias)`` and ``plain(*inputs, W, bias)``."""

    name: str
    ours: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    inputs: tuple[tuple[int, ...], ...]
    weight: tuple[int, ...]
    bias: int

    def tensors(
        self, dtype: torch.dtype = torch.float64, seed: int = 0
    ) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        """Inputs, W, B and bias; all but B require gradients."""
        generator = torch.Generator().manual_seed(seed)

        def leaf(shape: Sequence[int]) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        inputs = [leaf(shape).requires_grad_() for shape in self.inputs]
        weight, bias = leaf(self.weight).requires_grad_(), leaf((self.bias,)).requires_grad_()
        return inputs, weight, leaf(self.weight), bias


def conv_case(
    dims: int, x: tuple[int, ...], w: tuple[int, ...], *, padding_mode: str = "zeros", **arguments: Any
) -> Case:
    layer = NN_CONV[dims](
        x[-dims - 1], w[0], w[2:], padding_mode=padding_mode, dtype=torch.float64, **arguments
    )

    def ours(x: Tensor, weight: Tensor, feedback: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv(x, weight, feedback, bias, padding_mode=padding_mode, **arguments)

    def plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return layer._conv_forward(x, weight, bias)

    name = "-".join([f"conv{dims}d", *([] if padding_mode == "zeros" else [padding_mode])])
    return Case(name, ours, plain, (x,), w, w[0])


def transpose_case(dims: int, x: tuple[int, ...], w: tuple[int, ...], **arguments: Any) -> Case:
    def ours(x: Tensor, weight: Tensor, feedback: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv_transpose(x, weight, feedback, bias, **arguments)

    def plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F_CONV_TRANSPOSE[dims](x, weight, bias, **arguments)

    return Case(f"conv_transpose{dims}d", ours, plain, (x,), w, w[1] * arguments.get("groups", 1))


CASES = [
    Case("linear", functional.linear, F.linear, ((3, 4),), (5, 4), 5),
    Case("bilinear", functional.bilinear, F.bilinear, ((3, 4), (3, 2)), (5, 4, 2), 5),
    conv_case(1, (2, 4, 7), (6, 2, 3), stride=2, padding=1, groups=2),
    conv_case(2, (2, 3, 5, 4), (2, 3, 2, 3), padding="same", dilation=(1, 2)),
    conv_case(2, (2, 2, 4, 4), (2, 2, 3, 2), padding=(1, 2), padding_mode="circular"),
    conv_case(3, (2, 2, 3, 4, 3), (3, 2, 2, 1, 2), padding=1, stride=(1, 2, 1)),
    transpose_case(1, (2, 4, 4), (4, 3, 3), stride=3, output_padding=1, groups=2),
    transpose_case(2, (2, 3, 3, 3), (3, 2, 2, 3), padding=1, dilation=2),
    transpose_case(3, (2, 2, 2, 2, 3), (2, 3, 2, 2, 1), stride=2),
]
every_operation = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def check(
    output: Tensor,
    inputs: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    grad: Tensor,
    expected: Expected,
) -> None:
    """Compare a value and the gradients of inputs, W and bias with a reference."""
    wanted = [*inputs, weight] if bias is None else [*inputs, weight, bias]
    grads = torch.autograd.grad(output, wanted, grad)
    np.testing.assert_allclose(array(output), expected.output, rtol=1e-10, atol=1e-10)
    references_ = [*expected.grad_inputs, expected.grad_weight, expected.grad_bias]
    for ours, reference in zip(grads, references_[: len(grads)], strict=True):
        np.testing.assert_allclose(array(ours), reference, rtol=1e-10, atol=1e-10)


def draw_tensors(seed: int, *shapes: Sequence[int], requires_grad: bool = True) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(tuple(s), generator=generator, dtype=torch.float64) for s in shapes]
    return [t.requires_grad_(requires_grad) for t in tensors]


def zeros_if_none(bias: Tensor | None, size: int) -> np.ndarray:
    return np.zeros(size) if bias is None else array(bias)


# -- gradients against the references -------------------------------------------------------------------


@given(
    leading=st.lists(st.integers(0, 3), max_size=4),
    n_in=st.integers(1, 4),
    n_out=st.integers(1, 4),
    has_bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_linear_sends_the_error_back_through_feedback_and_learns_as_backpropagation(
    leading: list[int], n_in: int, n_out: int, has_bias: bool, seed: int
) -> None:
    x, w, b = draw_tensors(seed, (*leading, n_in), (n_out, n_in), (n_out,))
    feedback, grad = draw_tensors(seed + 1, (n_out, n_in), (*leading, n_out), requires_grad=False)
    bias = b if has_bias else None
    output = functional.linear(x, w, feedback, bias)
    assert torch.equal(output, F.linear(x, w, bias))
    expected = references.linear(array(x), array(w), array(feedback), zeros_if_none(bias, n_out), array(grad))
    check(output, [x], w, bias, grad, expected)


@given(
    leading=st.lists(st.integers(0, 3), min_size=0, max_size=3),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    has_bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_bilinear_sends_the_error_back_through_feedback_and_learns_as_backpropagation(
    leading: list[int], sizes: tuple[int, int, int], has_bias: bool, seed: int
) -> None:
    n_out, n_1, n_2 = sizes
    x1, x2, w, b = draw_tensors(seed, (*leading, n_1), (*leading, n_2), sizes, (n_out,))
    feedback, grad = draw_tensors(seed + 1, sizes, (*leading, n_out), requires_grad=False)
    bias = b if has_bias else None
    output = functional.bilinear(x1, x2, w, feedback, bias)
    assert torch.equal(output, F.bilinear(x1, x2, w, bias))
    expected = references.bilinear(
        array(x1), array(x2), array(w), array(feedback), zeros_if_none(bias, n_out), array(grad)
    )
    check(output, [x1, x2], w, bias, grad, expected)


@dataclass(frozen=True)
class ConvSettings:
    """A drawn convolution."""

    batch: int
    spatial: tuple[int, ...]
    kernel: tuple[int, ...]
    channels: tuple[int, int]
    """Per group: in, out."""
    groups: int
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Any
    pads: tuple[tuple[int, int], ...]
    """Padding in numbers: before and after each dimension."""
    padding_mode: str
    output_padding: tuple[int, ...]


def _one_or_each(draw: Any, sizes: tuple[int, ...]) -> Any:
    """Where all sizes are equal, sometimes the one number for all."""
    return sizes[0] if len(set(sizes)) == 1 and draw(st.booleans()) else sizes


@st.composite
def conv_settings(draw: Any, transposed: bool) -> ConvSettings:
    dims = draw(st.integers(1, 3))

    def per_dim(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    kernel = per_dim(1, 3 if dims < 3 else 2)
    dilation = per_dim(1, 2)
    stride = per_dim(1, 3)
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    mode, kind = "zeros", "numbers"
    if not transposed:
        mode = draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]))
        kind = draw(st.sampled_from(["numbers", "numbers", "same", "valid"]))
    if kind == "same":
        padding: Any = "same"
        stride = (1,) * dims
        pads = tuple((r // 2, r - r // 2) for r in reach)
    elif kind == "valid":
        padding, pads = "valid", ((0, 0),) * dims
    else:
        padding = per_dim(0, 2)
        pads = tuple((p, p) for p in padding)
        padding = _one_or_each(draw, padding)
    if transposed:
        # large enough that the output has an element in each dimension
        least = [1 + math.ceil(max(0, 2 * p[0] - r) / s) for p, r, s in zip(pads, reach, stride, strict=True)]
        output_padding = tuple(
            draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
        )
    else:
        least = [
            max(1, r + 1 - sum(p), max(p) + 1 if mode in ("reflect", "circular") else 1)
            for p, r in zip(pads, reach, strict=True)
        ]
        output_padding = ()
    return ConvSettings(
        batch=draw(st.integers(1, 2)),
        spatial=tuple(low + draw(st.integers(0, 2 if dims < 3 else 1)) for low in least),
        kernel=kernel,
        channels=(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        groups=draw(st.integers(1, 3)),
        stride=stride,
        dilation=dilation,
        padding=padding,
        pads=pads,
        padding_mode=mode,
        output_padding=output_padding,
    )


@settings(max_examples=150)
@given(s=conv_settings(transposed=False), has_bias=st.booleans(), seed=st.integers(0, 2**31))
def test_convolution_sends_the_error_back_through_feedback_and_learns_as_backpropagation(
    s: ConvSettings, has_bias: bool, seed: int
) -> None:
    n_in, n_out = (c * s.groups for c in s.channels)
    shape = (n_out, s.channels[0], *s.kernel)
    x, w, b = draw_tensors(seed, (s.batch, n_in, *s.spatial), shape, (n_out,))
    bias = b if has_bias else None
    plain = NN_CONV[len(s.kernel)](
        n_in, n_out, s.kernel, s.stride, s.padding, s.dilation, s.groups, padding_mode=s.padding_mode
    )
    value = plain._conv_forward(x, w, bias)
    feedback, grad = draw_tensors(seed + 1, shape, value.shape, requires_grad=False)
    output = functional.conv(x, w, feedback, bias, s.stride, s.padding, s.dilation, s.groups, s.padding_mode)
    torch.testing.assert_close(output, value, rtol=1e-12, atol=1e-12)
    expected = references.conv(
        array(x), array(w), array(feedback), zeros_if_none(bias, n_out), array(grad),
        s.stride, s.pads, s.dilation, s.groups, s.padding_mode,
    )  # fmt: skip
    check(output, [x], w, bias, grad, expected)


@settings(max_examples=150)
@given(s=conv_settings(transposed=True), has_bias=st.booleans(), seed=st.integers(0, 2**31))
def test_transposed_convolution_sends_the_error_back_through_feedback_and_learns_as_backpropagation(
    s: ConvSettings, has_bias: bool, seed: int
) -> None:
    n_in, n_out = (c * s.groups for c in s.channels)
    shape = (n_in, s.channels[1], *s.kernel)
    x, w, b = draw_tensors(seed, (s.batch, n_in, *s.spatial), shape, (n_out,))
    bias = b if has_bias else None
    arguments = s.stride, s.padding, s.output_padding, s.groups, s.dilation
    value = F_CONV_TRANSPOSE[len(s.kernel)](x, w, bias, *arguments)
    feedback, grad = draw_tensors(seed + 1, shape, value.shape, requires_grad=False)
    output = functional.conv_transpose(x, w, feedback, bias, *arguments)
    torch.testing.assert_close(output, value, rtol=1e-12, atol=1e-12)
    expected = references.conv_transpose(
        array(x), array(w), array(feedback), zeros_if_none(bias, n_out), array(grad),
        s.stride, [p[0] for p in s.pads], s.dilation, s.groups,
    )  # fmt: skip
    check(output, [x], w, bias, grad, expected)


# -- B = W ----------------------------------------------------------------------------------------------


@every_operation
@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no_bias"])
def test_gradients_are_those_of_backpropagation_if_feedback_equals_weight(case: Case, has_bias: bool) -> None:
    inputs, w, _, b = case.tensors()
    bias, wanted = (b, [*inputs, w, b]) if has_bias else (None, [*inputs, w])
    output, value = case.ours(*inputs, w, w.detach().clone(), bias), case.plain(*inputs, w, bias)
    assert torch.equal(output, value)
    grad = torch.randn_like(output)
    ours, plain = (torch.autograd.grad(y, wanted, grad) for y in (output, value))
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@every_operation
def test_gradients_pass_the_check_by_finite_differences_if_feedback_equals_weight(case: Case) -> None:
    inputs, w, _, bias = case.tensors()
    feedback = w.detach().clone()

    def operation(*tensors: Tensor) -> Tensor:
        *xs, weight, b = tensors
        return case.ours(*xs, weight, feedback, b)

    assert torch.autograd.gradcheck(operation, (*inputs, w, bias), check_batched_grad=True)


@every_operation
def test_gradients_can_be_differentiated_again_with_feedback_as_a_constant(case: Case) -> None:
    # Second derivatives are those of the gradients that the operation gives: of dx by W they are zero.
    inputs, w, feedback, bias = case.tensors()

    def operation(*tensors: Tensor) -> Tensor:
        *xs, weight, b = tensors
        return case.ours(*xs, weight, feedback, b)

    assert torch.autograd.gradgradcheck(operation, (*inputs, w, bias), fast_mode=True)


# -- layouts and empty tensors --------------------------------------------------------------------------


@every_operation
def test_an_empty_batch_gives_zero_gradients_of_the_parameters(case: Case) -> None:
    inputs, w, feedback, bias = case.tensors()
    inputs = [x.detach()[:0].requires_grad_() for x in inputs]
    output = case.ours(*inputs, w, feedback, bias)
    assert output.shape == case.plain(*inputs, w, bias).shape
    output.sum().backward()
    for x in inputs:
        assert x.grad is not None
        assert x.grad.shape == x.shape
    for p in (w, bias):
        assert p.grad is not None
        assert not p.grad.any()


@every_operation
def test_strides_of_inputs_weights_and_errors_do_not_matter(case: Case) -> None:
    inputs, w, feedback, bias = case.tensors()

    def strided(t: Tensor) -> Tensor:
        """The same values, in every second element of a larger tensor with its dimensions reversed."""
        reversed_ = t.detach().permute(*reversed(range(t.dim())))
        spread = torch.stack([reversed_, torch.full_like(reversed_, math.nan)], dim=-1)[..., 0]
        return spread.permute(*reversed(range(t.dim()))).requires_grad_(t.requires_grad)

    output = case.ours(*inputs, w, feedback, bias)
    grad = torch.randn_like(output)
    expected = torch.autograd.grad(output, [*inputs, w, bias], grad)
    s_inputs, s_w, s_bias = [strided(x) for x in inputs], strided(w), strided(bias)
    assert not s_w.is_contiguous()
    s_output = case.ours(*s_inputs, s_w, strided(feedback), s_bias)
    torch.testing.assert_close(s_output, output)
    grads = torch.autograd.grad(s_output, [*s_inputs, s_w, s_bias], strided(grad))
    for a, b in zip(grads, expected, strict=True):
        torch.testing.assert_close(a, b)


@every_operation
def test_an_error_that_is_one_expanded_number_is_carried_back(case: Case) -> None:
    inputs, w, feedback, bias = case.tensors()
    output = case.ours(*inputs, w, feedback, bias)
    expanded = torch.autograd.grad(output.sum(), [*inputs, w, bias], retain_graph=True)
    dense = torch.autograd.grad(output, [*inputs, w, bias], torch.ones_like(output))
    for a, b in zip(expanded, dense, strict=True):
        torch.testing.assert_close(a, b)


CONVOLUTIONS = [case for case in CASES if "conv" in case.name]
every_convolution = pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda case: case.name)


@every_convolution
def test_convolution_without_a_batch_dimension_is_that_of_a_batch_of_one(case: Case) -> None:
    (x,), w, feedback, bias = case.tensors()
    x = x.detach()[0].requires_grad_()
    output = case.ours(x, w, feedback, bias)
    assert torch.equal(output, case.plain(x, w, bias))
    batched = case.ours(x.unsqueeze(0), w, feedback, bias)
    assert torch.equal(batched.squeeze(0), output)
    grad = torch.randn_like(output)
    ours = torch.autograd.grad(output, [x, w, bias], grad)
    expected = torch.autograd.grad(batched, [x, w, bias], grad.unsqueeze(0))
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "case", [c for c in CONVOLUTIONS if "2d" in c.name or "3d" in c.name], ids=lambda case: case.name
)
@pytest.mark.parametrize("weight_too", [False, True])
def test_convolution_keeps_the_memory_format_of_channels_last(case: Case, weight_too: bool) -> None:
    (x,), w, feedback, bias = case.tensors(torch.float32)
    fmt = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    last_x = x.detach().to(memory_format=fmt).requires_grad_()
    last_w = w.detach().to(memory_format=fmt).requires_grad_() if weight_too else w
    value = case.plain(last_x, last_w, bias)
    output = case.ours(last_x, last_w, feedback, bias)
    assert output.stride() == value.stride()
    grads = torch.autograd.grad(output.square().sum(), [last_x, last_w, bias])
    expected = torch.autograd.grad(case.ours(x, w, feedback, bias).square().sum(), [x, w, bias])
    for a, b in zip(grads, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_setting_in_a_list_of_one_number_counts_for_every_dimension() -> None:
    (x,), w, feedback, bias = CASES[3].tensors()
    for mode in ("zeros", "circular"):
        each = functional.conv(x, w, feedback, bias, (2, 2), (1, 1), (2, 2), padding_mode=mode)
        one = functional.conv(x, w, feedback, bias, [2], [1], [2], padding_mode=mode)
        assert torch.equal(each, one)


# -- only what is needed --------------------------------------------------------------------------------


def saved_tensors(operation: Callable[[], Tensor]) -> tuple[Tensor, list[Tensor]]:
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = operation()
    return output, saved


def shares_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


@every_operation
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
def test_the_forward_weight_is_not_saved_for_the_backward_pass(case: Case, autocast: bool) -> None:
    inputs, w, feedback, bias = case.tensors(torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        _, saved = saved_tensors(lambda: case.ours(*inputs, w, feedback, bias))
    assert saved
    copies = [w.detach(), w.detach().bfloat16()]
    for tensor in saved:
        assert not shares_memory(tensor, w)
        assert not any(tensor.shape == c.shape and torch.equal(tensor, c) for c in copies)
    _, plain = saved_tensors(lambda: case.plain(*inputs, w, bias))
    assert any(shares_memory(tensor, w) for tensor in plain), "the check must find W where it is saved"


@every_operation
def test_the_backward_pass_does_not_notice_that_the_forward_weight_changed(case: Case) -> None:
    inputs, w, feedback, bias = case.tensors()
    wanted = [*inputs, w, bias]
    output = case.ours(*inputs, w, feedback, bias)
    grad = torch.randn_like(output)
    expected = torch.autograd.grad(output, wanted, grad, retain_graph=True)
    with torch.no_grad():
        w.fill_(math.nan)
    for a, b in zip(torch.autograd.grad(output, wanted, grad), expected, strict=True):
        assert torch.equal(a, b)


@every_operation
def test_a_frozen_weight_gets_no_gradient_and_the_input_gets_the_same_one(case: Case) -> None:
    inputs, w, feedback, bias = case.tensors()
    output = case.ours(*inputs, w, feedback, bias)
    grad = torch.randn_like(output)
    expected = torch.autograd.grad(output, inputs, grad)
    frozen = w.detach()
    case.ours(*inputs, frozen, feedback, bias).backward(grad)
    assert frozen.grad is None
    for x, e in zip(inputs, expected, strict=True):
        assert x.grad is not None
        torch.testing.assert_close(x.grad, e)


@every_operation
def test_an_input_without_gradient_gets_none_and_the_weight_gets_the_same_one(case: Case) -> None:
    inputs, w, feedback, bias = case.tensors()
    output = case.ours(*inputs, w, feedback, bias)
    grad = torch.randn_like(output)
    expected = torch.autograd.grad(output, [w, bias], grad)
    constants = [x.detach() for x in inputs]
    case.ours(*constants, w, feedback, bias).backward(grad)
    assert all(x.grad is None for x in constants)
    torch.testing.assert_close(w.grad, expected[0])
    torch.testing.assert_close(bias.grad, expected[1])


@every_operation
def test_only_the_bias_learns_if_all_else_is_frozen(case: Case) -> None:
    inputs, w, feedback, bias = case.tensors()
    output = case.ours(*(x.detach() for x in inputs), w.detach(), feedback, bias)
    output.backward(torch.ones_like(output))
    assert bias.grad is not None
    expected = torch.autograd.grad(case.plain(*inputs, w, bias).sum(), bias)[0]
    torch.testing.assert_close(bias.grad, expected)


@every_operation
def test_the_feedback_weight_never_gets_a_gradient(case: Case) -> None:
    inputs, w, feedback, bias = case.tensors()
    feedback.requires_grad_()
    case.ours(*inputs, w, feedback, bias).square().sum().backward()
    assert feedback.grad is None


@every_operation
def test_the_output_requires_no_gradient_if_nothing_does(case: Case) -> None:
    inputs, w, feedback, bias = case.tensors()
    constants = [x.detach() for x in inputs]
    assert not case.ours(*constants, w.detach(), feedback, bias.detach()).requires_grad
    assert not case.ours(*constants, w.detach(), feedback, None).requires_grad
    with torch.no_grad():
        assert not case.ours(*inputs, w, feedback, bias).requires_grad
    with torch.inference_mode():
        assert case.ours(*inputs, w, feedback, bias).is_inference()


def test_linear_saves_neither_the_input_nor_feedback_where_no_gradient_needs_it() -> None:
    (x,), w, feedback, bias = CASES[0].tensors()
    _, saved = saved_tensors(lambda: functional.linear(x, w.detach(), feedback, bias))
    assert not any(shares_memory(t, x) for t in saved)
    _, saved = saved_tensors(lambda: functional.linear(x.detach(), w, feedback, bias))
    assert not any(shares_memory(t, feedback) for t in saved)


# -- dtypes ---------------------------------------------------------------------------------------------


@every_operation
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_output_and_gradients_have_the_dtype_of_the_tensors_and_its_precision(
    case: Case, dtype: torch.dtype
) -> None:
    inputs, w, feedback, bias = case.tensors(dtype)
    output = case.ours(*inputs, w, feedback, bias)
    assert output.dtype == dtype
    assert torch.equal(output, case.plain(*inputs, w, bias))
    grad = torch.randn_like(output)
    grads = torch.autograd.grad(output, [*inputs, w, bias], grad)
    exact = [t.detach().double().requires_grad_(t.requires_grad) for t in (*inputs, w, feedback, bias)]
    *x64, w64, f64, b64 = exact
    reference = torch.autograd.grad(case.ours(*x64, w64, f64, b64), [*x64, w64, b64], grad.double())
    for a, e in zip(grads, reference, strict=True):
        assert a.dtype == dtype
        tolerance = 32 * torch.finfo(dtype).eps * float(e.abs().max())
        torch.testing.assert_close(a.double(), e, rtol=0, atol=tolerance)


# -- errors ---------------------------------------------------------------------------------------------


@every_operation
def test_feedback_of_another_shape_is_refused(case: Case) -> None:
    inputs, w, feedback, bias = case.tensors()
    with pytest.raises(ValueError, match=r"feedback must have the shape of weight, \(\d"):
        case.ours(*inputs, w, feedback.flatten(), bias)
    with pytest.raises(ValueError, match="feedback must have the shape of weight"):
        case.ours(*inputs, w, feedback[:1], bias)


def test_same_padding_with_a_stride_is_refused() -> None:
    x, w, feedback = torch.ones(1, 1, 5), torch.ones(1, 1, 3), torch.ones(1, 1, 3)
    with pytest.raises(ValueError, match=r"padding='same' needs stride 1, got stride \(2,\)"):
        functional.conv(x, w, feedback, stride=2, padding="same")


def test_an_unknown_padding_is_refused() -> None:
    x, w, feedback = torch.ones(1, 1, 5), torch.ones(1, 1, 3), torch.ones(1, 1, 3)
    with pytest.raises(ValueError, match="padding must be a number, one per dimension, 'same' or 'valid'"):
        functional.conv(x, w, feedback, padding="full")


@pytest.mark.parametrize("setting", ["stride", "padding", "dilation"])
def test_a_setting_for_another_number_of_dimensions_is_refused(setting: str) -> None:
    (x,), w, feedback, bias = CASES[3].tensors()
    message = rf"{setting} must be one number or 2, one per spatial dimension, got \(1, 1, 1\)"
    with pytest.raises(ValueError, match=message):
        functional.conv(x, w, feedback, bias, **{setting: (1, 1, 1)})
    with pytest.raises(ValueError, match=message):
        functional.conv_transpose(x, w.transpose(0, 1), feedback.transpose(0, 1), **{setting: (1, 1, 1)})
