"""Each feedback format against its dense equivalent: the same layer with the decompressed B as a tensor."""

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint

from alignonce import (
    FP8,
    Backpropagation,
    Dense,
    DirectFeedback,
    FeedbackFormat,
    Int4,
    Int8,
    KolenPollack,
    LowRank,
    RandomFeedback,
    SemiStructured,
    Sign,
    SignSymmetry,
    SoftAlignment,
    Sparse,
    alignment,
    audit_weight_transport,
    exact_gradients,
    feedback_weights,
    set_learning_rule,
)
from alignonce.diagnostics import effective_ranks, functional_alignment
from alignonce.formats.compressed import CompressedFeedback
from alignonce.layers import FeedbackLayer, feedback_name, forward_weight_names

SAME = SoftAlignment(cosine=1)
FORMATS: list[FeedbackFormat] = [
    Dense(torch.bfloat16),
    LowRank(rank=2),
    LowRank(rank=2, dtype=torch.bfloat16),
    Int8(),
    Int4(),
    Sign(),
    FP8(),
    SemiStructured(),
    Sparse(0.3),
]
every_format = pytest.mark.parametrize("format", FORMATS, ids=repr)
# How far a product may be from the dense one: 8 bits of mantissa; an error in 8 bits with a sign.
TOLERANCE = {"bfloat16": 0.02, "Int8": 0.02, "Int4": 0.02, "Sign": 0.02}


def tolerance(format: FeedbackFormat) -> float:
    return next((t for word, t in TOLERANCE.items() if word in repr(format)), 1e-5)


class SelfAttention(nn.MultiheadAttention):
    """Marks the layer for :func:`run`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(8, 2, batch_first=True, **settings)


@dataclass(frozen=True)
class Kind:
    name: str
    layer: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]


KINDS = [
    Kind("linear", lambda: nn.Linear(12, 8), ((5, 12),)),
    Kind("linear of a sequence", lambda: nn.Linear(12, 8, bias=False), ((2, 3, 12),)),
    Kind("linear of a vector", lambda: nn.Linear(12, 8), ((12,),)),
    Kind("conv1d", lambda: nn.Conv1d(4, 8, 3, stride=2, padding=1), ((2, 4, 9),)),
    Kind("conv2d", lambda: nn.Conv2d(4, 8, (3, 2), dilation=(1, 2), padding=1), ((2, 4, 6, 7),)),
    Kind("conv2d same", lambda: nn.Conv2d(4, 8, 2, padding="same"), ((2, 4, 5, 5),)),
    Kind("conv2d reflect", lambda: nn.Conv2d(4, 8, 3, padding=2, padding_mode="reflect"), ((2, 4, 6, 6),)),
    Kind("conv2d groups", lambda: nn.Conv2d(4, 8, 3, groups=2), ((2, 4, 5, 5),)),
    Kind("conv2d no batch", lambda: nn.Conv2d(4, 8, 3), ((4, 5, 5),)),
    Kind("conv3d", lambda: nn.Conv3d(2, 8, 2), ((2, 2, 3, 3, 3),)),
    Kind("transposed", lambda: nn.ConvTranspose2d(8, 4, 3, 2, 1, output_padding=1), ((2, 8, 4, 4),)),
    Kind("transposed groups", lambda: nn.ConvTranspose1d(8, 4, 3, groups=2), ((2, 8, 5),)),
    Kind("bilinear", lambda: nn.Bilinear(4, 6, 8), ((3, 4), (3, 6))),
    Kind("self-attention", SelfAttention, ((2, 4, 8),) * 3),
    Kind("cross-attention", SelfAttention, ((2, 4, 8), (2, 5, 8), (2, 5, 8))),
    Kind("separate", lambda: SelfAttention(kdim=4, vdim=4), ((2, 4, 8), (2, 5, 4), (2, 5, 4))),
    Kind("lstm", lambda: nn.LSTM(6, 8, 2, bidirectional=True), ((3, 2, 6),)),
    Kind("gru cell", lambda: nn.GRUCell(6, 8), ((3, 6), (3, 8))),
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def made(layer: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return layer()


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_dense_feedback(layer: nn.Module) -> nn.Module:
    """A copy that holds the decompressed feedback weights as plain buffers."""
    dense = copy.deepcopy(layer)
    for module in list(dense.modules()):
        if isinstance(module, FeedbackLayer):
            values = {name: module.feedback_of(name).to(getattr(module, name).dtype)
                      for name in forward_weight_names(module)}  # fmt: skip
            module.start_feedback(module.learning_rule, values)
            assert all(feedback_name(name) in module._buffers for name in values)
    return dense


def run(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Output, gradients of the inputs, gradients of the parameters."""
    xs = [x.clone().requires_grad_() for x in inputs]
    if isinstance(layer, SelfAttention) and len({x.shape for x in xs}) == 1:
        xs = xs[:1]
        output = layer(xs[0], xs[0], xs[0])[0]
    else:
        output = layer(*xs)
        output = output[0] if isinstance(output, tuple) else output
    parameters = list(layer.parameters())
    grads = torch.autograd.grad(output, [*xs, *parameters], random(*output.shape, seed=2))
    return output, list(grads[: len(xs)]), list(grads[len(xs) :])


def distance(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@every_kind
@every_format
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_layer_equals_the_layer_with_the_decompressed_feedback_weight(
    kind: Kind, format: FeedbackFormat
) -> None:
    layer = made(kind.layer)
    plain = copy.deepcopy(layer)
    set_learning_rule(layer, SAME, format=format)
    inputs = tuple(random(*shape) for shape in kind.shapes)
    output, grads, weight_grads = run(layer, inputs)
    dense_output, dense_grads, dense_weight_grads = run(with_dense_feedback(layer), inputs)
    assert torch.equal(output, dense_output)
    torch.testing.assert_close(output, run(plain, inputs)[0])
    recurrent = isinstance(layer, nn.RNNBase | SelfAttention)
    for ours, expected in zip(grads, dense_grads, strict=True):
        assert distance(ours, expected) <= tolerance(format) * (2 if recurrent else 1)
    for ours, expected in zip(weight_grads, dense_weight_grads, strict=True):
        # the gradients of W see the errors of later layers and time steps only
        assert distance(ours, expected) <= (2 * tolerance(format) if recurrent else 1e-6)


@pytest.mark.parametrize(
    ("format", "most", "cosine"),
    [
        (Dense(torch.bfloat16), 0.5, 0.9999),
        (LowRank(1 / 8), 0.25, 0.6),
        (LowRank(1 / 4), 0.5, 0.75),
        (LowRank(1 / 8, dtype=torch.bfloat16), 0.125, 0.6),
        (Int8(), 0.26, 0.9999),
        (FP8(), 0.26, 0.999),
        (Int4(), 0.13, 0.99),
        (Sign(), 1 / 30, 0.86),  # of a uniform distribution: sqrt(3) / 2
        # The weights are uniform: the larger two of four hold 0.8 of their squares, the larger half 0.875.
        (SemiStructured(), 0.54, 0.89),
        (Sparse(0.5), 0.54, 0.93),
    ],
    ids=repr,
)
def test_bytes_cosine_and_norm_are_as_promised(format: FeedbackFormat, most: float, cosine: float) -> None:
    layer = made(lambda: nn.Linear(256, 256))
    (row,) = set_learning_rule(layer, SAME, format=format).rows
    ((_, forward, feedback),) = feedback_weights(layer)
    weight = forward.detach()
    assert row.extra_bytes <= most * weight.nbytes
    assert row.extra_bytes == sum(b.nbytes for b in layer.buffers())
    assert row.cosine >= cosine
    assert row.cosine == pytest.approx(alignment(layer)["weight"])
    assert row.cosine == pytest.approx(
        float(torch.cosine_similarity(weight.flatten(), feedback.float().flatten(), 0)), abs=1e-4
    )
    assert float(feedback.float().norm() / weight.norm()) == pytest.approx(1, abs=2e-3)


def test_low_rank_is_the_best_approximation_of_its_rank() -> None:
    matrix = random(40, 60).double()
    format = LowRank(rank=5)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    best = (u[:, :5] * s[:5]) @ v[:5]
    best = best * (matrix.norm() / best.norm())
    torch.testing.assert_close(format.dense(format.compress(matrix), (40, 60)), best)


def test_low_rank_of_a_large_matrix_comes_close_to_the_best() -> None:
    decay = torch.linspace(1, 0, 600) ** 4
    matrix = random(600, 600) * decay
    format = LowRank(rank=64)
    left, right = format.compress(matrix)
    best = torch.linalg.svdvals(matrix)[:64].norm() / matrix.norm()
    found = torch.cosine_similarity((left @ right).flatten(), matrix.flatten(), 0)
    assert best - 0.01 <= float(found) <= best + 1e-5
    again = format.compress(matrix)
    assert torch.equal(left, again[0])
    assert torch.equal(right, again[1])


def test_low_rank_survives_a_matrix_of_lower_rank() -> None:
    matrix = random(600, 10) @ random(10, 600)
    left, right = LowRank(rank=64).compress(matrix)
    assert distance(left @ right, matrix) < 1e-3


def test_low_rank_keeps_what_it_would_not_make_smaller() -> None:
    model = nn.Sequential(made(lambda: nn.Linear(256, 256)), made(lambda: nn.Linear(256, 10)))
    summary = set_learning_rule(model, SAME, format=LowRank(1 / 8))
    assert [row.format for row in summary.rows] == ["rank 32, two products", "dense float32"]


def test_sign_of_sign_symmetry_is_exact() -> None:
    layer = made(lambda: nn.Linear(9, 7))
    set_learning_rule(layer, SignSymmetry(once=True))
    ((_, _, dense),) = feedback_weights(layer)
    set_learning_rule(layer, SignSymmetry(once=True), format=Sign())
    ((_, _, feedback),) = feedback_weights(layer)
    torch.testing.assert_close(feedback, dense)


def test_semi_structured_keeps_two_of_four_along_the_sum() -> None:
    layer = made(lambda: nn.Linear(6, 8))
    set_learning_rule(layer, SAME, format=SemiStructured())
    ((_, _, feedback),) = feedback_weights(layer)
    assert ((feedback.view(2, 4, 6) != 0).sum(1) == 2).all()
    set_learning_rule(layer := made(lambda: nn.Linear(6, 7)), SAME, format=SemiStructured())
    assert isinstance(layer.feedback, Tensor)


@every_format
@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("kernel", [1, 3])
def test_the_error_of_a_convolution_has_the_inputs_order_in_memory(
    kernel: int, order: torch.memory_format, format: FeedbackFormat
) -> None:
    layer = made(lambda: nn.Conv2d(16, 8, kernel, padding=kernel // 2))
    set_learning_rule(layer, SAME, format=format)
    x = random(2, 16, 5, 5).contiguous(memory_format=order).requires_grad_()
    (error,) = torch.autograd.grad(layer(x).square().sum(), x)
    assert error.is_contiguous(memory_format=order)


def test_summary_says_how_each_layer_multiplies() -> None:
    model = nn.Sequential(
        nn.Conv2d(16, 64, 3), nn.Conv2d(64, 64, 3, groups=2), nn.Flatten(), nn.Linear(64, 64)
    )
    low_rank = set_learning_rule(model, SAME, format=LowRank(1 / 4)).rows
    assert [row.format for row in low_rank] == [
        "rank 16, two convolutions", "rank 16, decompressed at each step", "rank 16, two products",
    ]  # fmt: skip
    sparse = set_learning_rule(model, SAME, format=Sparse(0.5)).rows
    assert {row.format for row in sparse} == {"sparse 0.5, decompressed at each step"}
    assert "sparse 0.5" in str(set_learning_rule(model, SAME, format=Sparse(0.5)))
    assert "Sparse(fraction=0.5)" in str(model)


def small() -> nn.Sequential:
    return made(lambda: nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8)))  # type: ignore[return-value]


def small_gradients(model: nn.Module) -> list[Tensor]:
    x = random(6, 8).requires_grad_()
    return list(torch.autograd.grad(model(x).square().sum(), [x, *model.parameters()]))


def assert_same_gradients(a: nn.Module, b: nn.Module) -> None:
    for ours, expected in zip(small_gradients(a), small_gradients(b), strict=True):
        assert torch.equal(ours, expected)


@every_format
def test_state_dict_copies_and_pickles_hold_the_compressed_weights(format: FeedbackFormat) -> None:
    model = small()
    set_learning_rule(model, SAME, format=format)
    stored = {name for name in model.state_dict() if "feedback" in name}
    assert stored == {f"{layer}.feedback.{name}" for layer in (0, 2) for name in format.names}
    assert not any(p is b for p in model.parameters() for b in model.buffers())

    other = made(small, seed=5)
    set_learning_rule(other, RandomFeedback(), format=format)
    other.load_state_dict(model.state_dict())
    assert_same_gradients(model, other)
    assert_same_gradients(model, copy.deepcopy(model))
    assert_same_gradients(model, pickle.loads(pickle.dumps(model)))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert_same_gradients(model, other)


def test_plain_state_dict_loads_with_a_warning_and_keeps_feedback_weights() -> None:
    model, plain = small(), made(small, seed=7)
    set_learning_rule(model, SAME, format=Int8())
    before = [b.clone() for b in model.buffers()]
    with pytest.warns(UserWarning, match="without feedback weights"):
        model.load_state_dict(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))


def test_feedback_weights_of_another_format_are_refused() -> None:
    model, other = small(), made(small, seed=7)
    set_learning_rule(model, SAME, format=Int8())
    set_learning_rule(other, SAME)
    with (
        pytest.warns(UserWarning, match="without feedback weights"),
        pytest.raises(RuntimeError, match="feedback"),
    ):
        model.load_state_dict(other.state_dict())


@every_format
def test_change_of_dtype_leaves_the_bits_of_a_format_alone(format: FeedbackFormat) -> None:
    model = small()
    set_learning_rule(model, SAME, format=format)
    before = [b.dtype for b in model.buffers()]
    model.double()
    after = [b.dtype for b in model.buffers()]
    assert all(a in (b, torch.float64) and (a == b or not format.keeps_dtype)
               for a, b in zip(after, before, strict=True))  # fmt: skip
    x = random(6, 8).double().requires_grad_()
    ours = torch.autograd.grad(model(x).square().sum(), x)[0]
    expected = torch.autograd.grad(with_dense_feedback(model)(x).square().sum(), x)[0]
    assert distance(ours, expected) <= tolerance(format) * 2


@every_format
def test_tied_weights_share_one_compressed_feedback_weight(format: FeedbackFormat) -> None:
    model = nn.Sequential(made(lambda: nn.Linear(8, 8)), made(lambda: nn.Linear(8, 8)))
    model[1].weight = model[0].weight
    first, second = set_learning_rule(model, SAME, format=format).rows
    assert second.extra_bytes == 0 < first.extra_bytes
    assert model[0].feedback is model[1].feedback
    model.double()
    copied = copy.deepcopy(model)
    assert model[0].feedback is model[1].feedback
    assert copied[0].feedback is copied[1].feedback is not model[0].feedback


@every_format
def test_rules_and_formats_change_in_place_and_leave_no_trace(format: FeedbackFormat) -> None:
    model, plain = small(), small()
    keys = list(plain.state_dict())
    set_learning_rule(model, SAME)
    set_learning_rule(model, SAME, format=format)
    assert all(isinstance(model[i].feedback, CompressedFeedback) for i in (0, 2))
    set_learning_rule(model, SAME)
    assert all(type(model[i].feedback) is Tensor for i in (0, 2))
    assert_same_gradients(model, plain)
    set_learning_rule(model, SAME, format=format)
    with exact_gradients(model):
        assert_same_gradients(model, plain)
    set_learning_rule(model, Backpropagation())
    assert list(model.state_dict()) == keys
    assert type(model[0]) is nn.Linear
    assert not list(model[0].children())


@every_format
def test_audit_finds_no_transport(format: FeedbackFormat) -> None:
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 3))
    set_learning_rule(model, SoftAlignment(0.5), format=format)
    report = audit_weight_transport(model, random(4, 2, 5, 5), lambda y: y.square().sum())
    assert report.free_of_transport


@every_format
def test_autocast(format: FeedbackFormat) -> None:
    model = nn.Sequential(nn.Conv1d(2, 8, 3), nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 8))
    set_learning_rule(model, SAME, format=format)
    x = random(4, 2, 8).requires_grad_()
    for net in (model, dense := with_dense_feedback(model)):
        with torch.autocast("cpu", torch.bfloat16):
            loss = net(x).float().square().sum()
        loss.backward()
        if net is model:
            ours, x.grad = x.grad, None
    assert ours is not None
    assert x.grad is not None
    assert ours.dtype == torch.float32
    assert distance(ours, x.grad) < 0.05
    for a, b in zip(model.parameters(), dense.parameters(), strict=True):
        assert a.grad is not None
        assert a.grad.dtype == torch.float32
        assert b.grad is not None
        assert distance(a.grad, b.grad) < 0.05


@every_format
def test_vmap_and_grad_of_torch_func(format: FeedbackFormat) -> None:
    model = small()
    set_learning_rule(model, SAME, format=format)
    values = dict(model.named_parameters()) | dict(model.named_buffers())
    x = random(6, 8)
    per_sample = vmap(grad(lambda x: functional_call(model, values, (x,)).square().sum()))(x)
    assert distance(per_sample, small_gradients(model)[0]) < 3 * tolerance(format)
    ensemble = {k: torch.stack([v, v]) for k, v in values.items()}
    trained = {k: v for k, v in ensemble.items() if v.is_floating_point() and v.dtype.itemsize > 1}
    fixed = {k: v for k, v in values.items() if k not in trained}
    grads = vmap(grad(lambda v: functional_call(model, v | fixed, (x,)).square().sum()))(trained)
    for (name, _), expected in zip(model.named_parameters(), small_gradients(model)[1:], strict=True):
        assert distance(grads[name][1], expected) < 3 * tolerance(format)


@every_format
def test_checkpointing(format: FeedbackFormat) -> None:
    model = small()
    set_learning_rule(model, SAME, format=format)
    x = random(6, 8).requires_grad_()
    checkpoint(model, x, use_reentrant=False).square().sum().backward()
    assert torch.equal(x.grad, small_gradients(model)[0])


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("format", [LowRank(rank=2), Int8(), Sign(), Sparse(0.3)], ids=repr)
def test_compiles_as_one_graph(format: FeedbackFormat) -> None:
    model = nn.Sequential(nn.Conv1d(2, 8, 3), nn.Flatten(), nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, 8))
    set_learning_rule(model, SAME, format=format)
    x = random(4, 2, 8).requires_grad_()
    model(x).square().sum().backward()
    expected, x.grad = x.grad, None
    torch.compile(model, fullgraph=True, backend="aot_eager")(x).square().sum().backward()
    torch.testing.assert_close(x.grad, expected)


def test_diagnostics_see_the_decompressed_feedback_weights() -> None:
    model = small()
    set_learning_rule(model, SAME, format=LowRank(rank=2))
    dense = with_dense_feedback(model)
    assert effective_ranks(model) == effective_ranks(dense)
    batch = random(6, 8), torch.zeros(6, dtype=torch.int64)
    loss = nn.functional.cross_entropy
    ours, expected = functional_alignment(model, batch, loss), functional_alignment(dense, batch, loss)
    assert ours.keys() == expected.keys()
    assert isinstance(model[0].feedback, CompressedFeedback)


@pytest.mark.parametrize(
    "rule", [KolenPollack(), SignSymmetry(), DirectFeedback(), Backpropagation()], ids=str
)
def test_rules_without_a_fixed_feedback_weight_refuse_formats(rule: Any) -> None:
    model = small()
    with pytest.raises(ValueError, match="format="):
        set_learning_rule(model, rule, format=Int8(), inputs=random(2, 8))
    assert type(model[0]) is nn.Linear
    set_learning_rule(model, rule, format=Dense(), inputs=random(2, 8))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: LowRank(), "either fraction"),
        (lambda: LowRank(0.5, rank=3), "either fraction"),
        (lambda: LowRank(8), "fraction must be between 0 and 1, got 8"),
        (lambda: LowRank(rank=0), "rank must be a positive integer, got 0"),
        (lambda: LowRank(0.5, dtype=torch.int8), "dtype must be None or a floating-point"),
        (lambda: Dense(torch.float8_e5m2), "dtype must be None or a floating-point"),
        (lambda: Sparse(1.5), "fraction must be between 0 and 1, got 1.5"),
    ],
)
def test_formats_refuse_impossible_settings(make: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("format", [Int8, "int8", None])
def test_what_is_no_format_is_refused(format: Any) -> None:
    with pytest.raises(TypeError, match="format must be a FeedbackFormat"):
        set_learning_rule(small(), SAME, format=format)
