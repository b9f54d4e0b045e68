"""Multi-head attention with feedback weights: PyTorch's values, and errors that go back through feedback."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from alignonce import RandomFeedback, SoftAlignment, exact_gradients, set_learning_rule
from alignonce.layers.attention import FeedbackMultiheadAttention

HEADS, WIDTH = 2, 4


@dataclass(frozen=True)
class Attention:
    """A drawn attention layer and call."""

    plain: nn.MultiheadAttention
    inputs: tuple[Tensor, Tensor, Tensor]
    call: dict[str, Any]
    batched: bool

    def run(self, layer: nn.Module, inputs: tuple[Tensor, ...] | None = None) -> tuple[Tensor, Tensor | None]:
        with torch.random.fork_rng():
            torch.manual_seed(5)  # the same dropout for every layer
            return layer(*(inputs or self.inputs), **self.call)


def _mask(kind: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """The first key stays visible, since a query that sees nothing has no value."""
    if kind == "float":
        return torch.randn(shape, generator=generator, dtype=torch.float64)
    hidden = torch.rand(shape, generator=generator) < 0.4
    hidden[..., 0] = False
    return hidden


@st.composite
def attentions(draw: Any, causal: bool = True) -> Attention:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    sources = draw(st.sampled_from(["self", "key is value", "all different", "separate sizes"]))
    batch_first, batched = draw(st.booleans()), draw(st.booleans())
    kdim, vdim = (3, 5) if sources == "separate sizes" else (None, None)
    layer = nn.MultiheadAttention(
        WIDTH, HEADS,
        dropout=draw(st.sampled_from([0.0, 0.5])),
        bias=draw(st.booleans()),
        add_bias_kv=draw(st.booleans()),
        add_zero_attn=draw(st.booleans()),
        kdim=kdim, vdim=vdim, batch_first=batch_first, dtype=torch.float64,
    )  # fmt: skip
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    layer.train(draw(st.booleans()))
    n = draw(st.integers(1, 2)) if batched else 1
    length = draw(st.integers(1, 4))
    keys = length if sources == "self" else draw(st.integers(1, 4))

    def source(steps: int, width: int) -> Tensor:
        shape = (n, steps, width) if batch_first else (steps, n, width)
        if not batched:
            shape = (steps, width)
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    query = source(length, WIDTH)
    if sources == "self":
        inputs = query, query, query
    elif sources == "key is value":
        inputs = (query, *[source(keys, WIDTH)] * 2)
    else:
        inputs = query, source(keys, kdim or WIDTH), source(keys, vdim or WIDTH)

    kind = draw(st.sampled_from(["bool", "float"]))
    call: dict[str, Any] = {
        "need_weights": draw(st.booleans()),
        "average_attn_weights": draw(st.booleans()),
    }
    mask = draw(st.sampled_from(["none", "2D", "3D", *(["causal"] if causal else [])]))
    if mask == "causal":
        hidden = torch.ones(length, keys).triu(1).bool()
        call["attn_mask"] = hidden if kind == "bool" else torch.zeros_like(hidden, dtype=torch.float64)
        if kind == "float":
            call["attn_mask"].masked_fill_(hidden, -math.inf)
        call["is_causal"] = True
    elif mask != "none":
        call["attn_mask"] = _mask(
            kind, (length, keys) if mask == "2D" else (n * HEADS, length, keys), generator
        )
    if draw(st.booleans()):
        call["key_padding_mask"] = _mask(kind, (n, keys) if batched else (keys,), generator)
    return Attention(layer, inputs, call, batched)


def converted(plain: nn.Module, cosine: float = 0.4) -> nn.Module:
    model = copy.deepcopy(plain)
    set_learning_rule(model, SoftAlignment(cosine=cosine, seed=1))
    return model


def distinct(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    return list({id(t): t for t in tensors}.values())


def gradients(a: Attention, layer: nn.Module) -> dict[str, Tensor | None]:
    """Of a loss that reads the output and, where there are some, the attention weights."""
    output, weights = a.run(layer)
    loss = output.cos().sum() + (0 if weights is None else weights.square().sum())
    names = [*(f"input {i}" for i in range(len(distinct(a.inputs)))), *dict(layer.named_parameters())]
    wanted = [*distinct(a.inputs), *layer.parameters()]
    return dict(zip(names, torch.autograd.grad(loss, wanted, allow_unused=True), strict=True))


def close(ours: dict[str, Tensor | None], expected: dict[str, Tensor | None]) -> None:
    assert ours.keys() == expected.keys()
    for name, e in expected.items():
        g = ours[name]
        if e is None or g is None:
            assert g is e is None, name
        else:
            torch.testing.assert_close(g, e, rtol=1e-10, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}")


@given(attentions())
def test_output_and_attention_weights_are_those_of_the_plain_layer(a: Attention) -> None:
    layer = converted(a.plain)
    assert isinstance(layer, FeedbackMultiheadAttention)
    for grad in (True, False):  # without gradients the plain layer in eval mode takes a fused path
        with torch.set_grad_enabled(grad):
            (output, weights), (value, plain_weights) = a.run(layer), a.run(a.plain)
        if grad:
            assert output.stride() == value.stride()
        torch.testing.assert_close(output, value, rtol=1e-10, atol=1e-10)
        if plain_weights is None:
            assert weights is None
        else:
            torch.testing.assert_close(weights, plain_weights, rtol=1e-10, atol=1e-10)


@given(attentions())
def test_gradients_are_those_of_backpropagation_if_feedback_equals_weight(a: Attention) -> None:
    expected = gradients(a, a.plain)
    close(gradients(a, converted(a.plain, cosine=1)), expected)
    layer = converted(a.plain)
    with exact_gradients(layer):
        close(gradients(a, layer), expected)


def project(x: Tensor, weight: Tensor, feedback: Tensor, bias: Tensor | None) -> Tensor:
    """W's value; x gets its gradient from a term that is zero in value and goes through B."""
    through_feedback = x @ feedback.T
    value = x.detach() @ weight.T + (through_feedback - through_feedback.detach())
    return value if bias is None else value + bias


def reference(layer: FeedbackMultiheadAttention, a: Attention) -> tuple[Tensor, Tensor]:
    """Attention per batch element and head, written out; without dropout; the weights per head."""
    packed = layer.in_proj_weight is not None
    if packed:
        weights, feedbacks = layer.in_proj_weight.chunk(3), layer.in_proj_feedback.chunk(3)
    else:
        weights = layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight
        feedbacks = layer.q_proj_feedback, layer.k_proj_feedback, layer.v_proj_feedback
    biases = [None] * 3 if layer.in_proj_bias is None else layer.in_proj_bias.chunk(3)
    inputs = list(a.inputs)
    if not a.batched:
        inputs = [x[None] for x in inputs]
    elif not layer.batch_first:
        inputs = [x.transpose(0, 1) for x in inputs]
    outputs, all_weights = [], []
    attn_mask, padding = a.call.get("attn_mask"), a.call.get("key_padding_mask")
    for n in range(inputs[0].shape[0]):
        q, k, v = (project(x[n], *wb) for x, *wb in zip(inputs, weights, feedbacks, biases, strict=True))
        if layer.bias_k is not None:
            k, v = torch.cat([k, layer.bias_k[0]]), torch.cat([v, layer.bias_v[0]])
        if layer.add_zero_attn:
            k, v = torch.cat([k, k.new_zeros(1, WIDTH)]), torch.cat([v, v.new_zeros(1, WIDTH)])
        heads, size = [], WIDTH // HEADS
        for h in range(HEADS):
            part = slice(h * size, (h + 1) * size)
            scores = q[:, part] @ k[:, part].T / math.sqrt(size)
            for mask in (attn_mask, padding if padding is None or not a.batched else padding[n]):
                if mask is None:
                    continue
                if mask.dim() == 3:
                    mask = mask[n * HEADS + h]
                if mask.dtype == torch.bool:
                    mask = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(mask, -math.inf)
                keys = inputs[1].shape[1]
                scores = torch.cat([scores[:, :keys] + mask, scores[:, keys:]], dim=1)
            attention = scores.softmax(dim=1)
            heads.append(attention @ v[:, part])
            all_weights.append(attention)
        out = layer.out_proj
        outputs.append(project(torch.cat(heads, dim=1), out.weight, out.feedback, out.bias))
    output = torch.stack(outputs)
    per_head = torch.stack(all_weights).unflatten(0, (-1, HEADS))
    if not a.batched:
        return output[0], per_head[0]
    return (output if layer.batch_first else output.transpose(0, 1)), per_head


@given(attentions(causal=False))
def test_errors_go_back_through_feedback_in_every_projection(a: Attention) -> None:
    layer = converted(a.plain.eval())
    output, per_head = reference(layer, a)
    loss = output.cos().sum()
    if a.call["need_weights"]:
        weights = per_head
        if a.call["average_attn_weights"]:
            weights = per_head.mean(dim=-3)
        loss = loss + weights.square().sum()
    wanted = [*distinct(a.inputs), *layer.parameters()]
    expected = torch.autograd.grad(loss, wanted, allow_unused=True)
    ours = gradients(a, layer)
    close(ours, dict(zip(ours, expected, strict=True)))


def test_self_attention_projects_once_whatever_the_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    plain_linear = F.linear

    def spy(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        shapes.append(tuple(weight.shape))
        return plain_linear(x, weight, bias)

    monkeypatch.setattr(F, "linear", spy)
    for batch_first in (False, True):
        layer = converted(nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first))
        x = torch.randn(3, 2, WIDTH)
        shapes.clear()
        layer(x, x, x)
        assert shapes == [(3 * WIDTH, WIDTH), (WIDTH, WIDTH)]


def test_frozen_projections_get_no_gradient() -> None:
    layer = converted(nn.MultiheadAttention(WIDTH, HEADS))
    layer.in_proj_weight.requires_grad_(False)
    x = torch.randn(3, 2, WIDTH, requires_grad=True)
    layer(x, x, x)[0].square().sum().backward()
    assert layer.in_proj_weight.grad is None
    assert x.grad is not None
    assert layer.out_proj.weight.grad is not None
    assert not any(b.requires_grad or b.grad is not None for b in layer.buffers())


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize(
    "settings", [{}, {"add_bias_kv": True, "add_zero_attn": True}, {"kdim": 4, "vdim": 4}]
)
def test_autocast_gives_the_dtypes_and_values_of_the_plain_layer(
    need_weights: bool, settings: dict[str, Any]
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # rounding errors of bfloat16 depend on the numbers
        plain = nn.MultiheadAttention(WIDTH, HEADS, **settings)
        x = torch.randn(3, 2, WIDTH, requires_grad=True)
    layer = converted(plain, cosine=1)
    call = {
        "attn_mask": torch.eye(3),
        "key_padding_mask": torch.zeros(2, 3),
        "need_weights": need_weights,
    }
    with torch.autocast("cpu", torch.bfloat16):
        (output, weights), (value, plain_weights) = layer(x, x, x, **call), plain(x, x, x, **call)
    assert output.dtype == value.dtype
    torch.testing.assert_close(output, value, rtol=0.03, atol=0.03)
    if need_weights:
        assert weights.dtype == plain_weights.dtype
        torch.testing.assert_close(weights, plain_weights, rtol=0.03, atol=0.03)
    ours, expected = (
        torch.autograd.grad(y.float().cos().sum(), [x, *m.parameters()])
        for y, m in ((output, layer), (value, plain))
    )
    for a, e in zip(ours, expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, e, rtol=0.05, atol=0.1)


# -- errors ---------------------------------------------------------------------------------------------


def test_masks_that_would_spread_silently_are_refused() -> None:
    layer = converted(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True))
    x = torch.randn(2, 3, WIDTH)
    for mask in (torch.zeros(1, 3), torch.zeros(3, 1), torch.zeros(2, 3, 3), torch.zeros(3)):
        with pytest.raises(ValueError, match=r"attn_mask must have shape \(3, 3\) or \(4, 3, 3\), got"):
            layer(x, x, x, attn_mask=mask)
    with pytest.raises(ValueError, match=r"key_padding_mask must have shape \(2, 3\), got \(1, 3\)"):
        layer(x, x, x, key_padding_mask=torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"attn_mask must be boolean or floating-point, got torch.int64"):
        layer(x, x, x, attn_mask=torch.zeros(3, 3, dtype=torch.int64))


def test_inputs_that_would_spread_silently_are_refused() -> None:
    layer = converted(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True))
    x = torch.randn(2, 3, WIDTH)
    with pytest.raises(ValueError, match="one batch size"):
        layer(x, x[:1], x[:1])
    with pytest.raises(ValueError, match="key and value one length"):
        layer(x, x, x[:, :2])
    with pytest.raises(ValueError, match="three dimensions, or two"):
        layer(x, x[0], x[0])


def test_a_causal_hint_without_its_mask_is_refused() -> None:
    layer = converted(nn.MultiheadAttention(WIDTH, HEADS))
    x = torch.randn(3, 2, WIDTH)
    with pytest.raises(ValueError, match="give attn_mask too"):
        layer(x, x, x, is_causal=True)


# -- transformers ---------------------------------------------------------------------------------------


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[list[int]]:
    calls: list[int] = []
    function = getattr(torch, name)

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return function(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, name, counting)
        yield calls


def seeded(model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return model(*args, **kwargs)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_transformer_layers_keep_their_values_in_train_and_eval_mode(
    norm_first: bool, batch_first: bool
) -> None:
    settings = {"dim_feedforward": 8, "norm_first": norm_first, "batch_first": batch_first}
    causal = nn.Transformer.generate_square_subsequent_mask(3)
    x, memory = torch.randn(3, 3, WIDTH), torch.randn(3, 3, WIDTH)
    encoder, decoder = (
        kind(WIDTH, HEADS, **settings) for kind in (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
    )
    for plain, args, kwargs in [
        (encoder, (x,), {}),
        (encoder, (x,), {"src_mask": causal, "is_causal": True}),
        (decoder, (x, memory), {"tgt_mask": causal, "tgt_is_causal": True}),
    ]:
        for mode in (True, False):
            plain.train(mode)
            model = converted(plain, cosine=1)
            output, value = seeded(model, *args, **kwargs), seeded(plain, *args, **kwargs)
            torch.testing.assert_close(output, value)
            ours, expected = (
                torch.autograd.grad(y.cos().sum(), list(m.parameters()))
                for y, m in ((output, model), (value, plain))
            )
            for a, b in zip(ours, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
            with torch.no_grad():
                torch.testing.assert_close(seeded(converted(plain), *args, **kwargs), value)


def test_the_fused_inference_path_of_an_encoder_layer_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = nn.TransformerEncoderLayer(WIDTH, HEADS, 8, batch_first=True).eval()
    model, x = converted(plain), torch.randn(2, 3, WIDTH)
    with counted(monkeypatch, "_transformer_encoder_layer_fwd") as calls, torch.no_grad():
        output = model(x)
    assert calls
    torch.testing.assert_close(output, plain(x))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_an_encoder_on_nested_tensors_keeps_its_values(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, HEADS, 8, batch_first=True), 2).eval()
    model, x = converted(plain), torch.randn(2, 3, WIDTH)
    padding = torch.tensor([[False, False, True], [False, False, False]])
    with counted(monkeypatch, "_nested_tensor_from_mask") as calls, torch.no_grad():
        output = model(x, src_key_padding_mask=padding)
    assert calls
    with torch.no_grad():
        torch.testing.assert_close(output, plain(x, src_key_padding_mask=padding))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_nested_input_of_the_layer_itself_is_served_without_gradients() -> None:
    plain = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).eval()
    layer = converted(plain)
    x = torch.nested.nested_tensor([torch.randn(2, WIDTH), torch.randn(3, WIDTH)])
    with torch.no_grad():
        ours, expected = layer(x, x, x, need_weights=False)[0], plain(x, x, x, need_weights=False)[0]
    for a, b in zip(ours.unbind(), expected.unbind(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_whole_transformer_learns_with_random_feedback() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Transformer(WIDTH, HEADS, 1, 1, 8, batch_first=True, dropout=0.0)
        source, target = torch.randn(4, 3, WIDTH), torch.randn(4, 2, WIDTH)
    set_learning_rule(model, RandomFeedback())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.mse_loss(model(source, target), target)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
