"""Feedback formats on a CUDA device: its kernels against the decompressed B, and B's ways there and back."""

import copy

import pytest
import torch
from torch import Tensor, nn

from alignonce import FP8, Dense, FeedbackFormat, Int8, LowRank, feedback_weights, set_learning_rule
from alignonce.formats.base import DECOMPRESSED
from formats.test_formats import (
    SAME,
    Kind,
    distance,
    every_format,
    every_kind,
    made,
    random,
    run,
    with_dense_feedback,
)

pytestmark = pytest.mark.gpu
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

DEVICE = "cuda"
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 0.01}
"""How far products of numbers of a dtype may be apart."""
FEW_BITS = {"FP8": 0.1, "Int8": 0.02, "Int4": 0.02, "Sign": 0.02, "bfloat16": 0.02}
"""How far beyond that a format's own product may be from the dense one, by a word of its name."""


def tolerance(format: FeedbackFormat, dtype: torch.dtype = torch.float32) -> float:
    return ROUNDING[dtype] + next((t for word, t in FEW_BITS.items() if word in repr(format)), 0)


def wide() -> nn.Module:
    """Sizes that the kernels for few bits ask for, and a layer of another size."""
    return made(
        lambda: nn.Sequential(nn.Linear(96, 64), nn.Tanh(), nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 10))
    )


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    return list(torch.autograd.grad(model(x).float().cos().sum(), [x, *model.parameters()]))


def close(ours: list[Tensor], expected: list[Tensor], limit: float) -> None:
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == b.dtype
        assert distance(a.double(), b.double()) <= limit


@every_kind
@every_format
@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_layer_equals_the_layer_with_the_decompressed_feedback_weight(
    kind: Kind, format: FeedbackFormat, dtype: torch.dtype
) -> None:
    layer = made(kind.layer).to(DEVICE, dtype)
    set_learning_rule(layer, SAME, format=format)
    inputs = tuple(random(*shape).to(DEVICE, dtype) for shape in kind.shapes)
    output, grads, weight_grads = run(layer, inputs)
    dense_output, dense_grads, dense_weight_grads = run(with_dense_feedback(layer), inputs)
    assert torch.equal(output, dense_output)
    limit = tolerance(format, dtype) * (2 if isinstance(layer, nn.RNNBase | nn.MultiheadAttention) else 1)
    close([*grads, *weight_grads], [*dense_grads, *dense_weight_grads], limit)


@every_format
@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
@pytest.mark.parametrize("rows", [1, 32, 77])
def test_kernels_for_whole_blocks_equal_the_decompressed_feedback_weight(
    format: FeedbackFormat, dtype: torch.dtype, rows: int
) -> None:
    model = wide().to(DEVICE, dtype)
    set_learning_rule(model, SAME, format=format)
    x = random(rows, 96).to(DEVICE, dtype)
    close(gradients(model, x), gradients(with_dense_feedback(model), x), 3 * tolerance(format, dtype))


@every_format
def test_errors_in_any_order_in_memory(format: FeedbackFormat) -> None:
    layer = nn.Linear(96, 64, device=DEVICE)
    set_learning_rule(layer, SAME, format=format)
    x, error = random(32, 96).to(DEVICE).requires_grad_(), random(64, 32).to(DEVICE)
    dense = with_dense_feedback(layer)
    for e in (error.t(), error[:, :1].t().expand(32, 64)):
        ours, expected = (torch.autograd.grad(net(x), x, e)[0] for net in (layer, dense))
        assert distance(ours, expected) <= tolerance(format)


@every_format
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(format: FeedbackFormat, dtype: torch.dtype) -> None:
    model = wide().to(DEVICE)
    set_learning_rule(model, SAME, format=format)
    dense, x = with_dense_feedback(model), random(32, 96).to(DEVICE)
    with torch.autocast(DEVICE, dtype):
        ours, expected = gradients(model, x), gradients(dense, x)
    close(ours, expected, 3 * tolerance(format, dtype))


@pytest.mark.usefixtures("fresh_compiler")
@every_format
def test_compiled_steps_equal_eager_ones(format: FeedbackFormat) -> None:
    model = wide().to(DEVICE)
    set_learning_rule(model, SAME, format=format)
    x = random(32, 96).to(DEVICE)
    compiled = torch.compile(model, fullgraph=True)
    close(gradients(compiled, x), gradients(model, x), 3 * tolerance(format))


@every_format
def test_a_move_to_the_device_and_back_keeps_every_bit(format: FeedbackFormat) -> None:
    model = wide()
    set_learning_rule(model, SAME, format=format)
    before = copy.deepcopy(model.state_dict())
    model.to(DEVICE)
    assert all(b.device.type == DEVICE for b in model.buffers())
    after = model.cpu().state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@every_format
def test_what_is_compressed_on_the_device_is_what_the_cpu_compresses(format: FeedbackFormat) -> None:
    models = [wide().double(), wide().double().to(DEVICE)]
    for model in models:
        set_learning_rule(model, SAME, format=format)
    for (_, _, a), (_, _, b) in zip(*map(feedback_weights, models), strict=True):
        assert distance(b.cpu().double(), a.double()) <= tolerance(format)


def test_low_rank_is_fitted_on_the_device_as_on_the_cpu() -> None:
    x = random(256, 96).double()
    models = [wide().double(), wide().double().to(DEVICE)]
    for model in models:
        summary = set_learning_rule(
            model, SAME, format=LowRank(rank=16), inputs=x.to(next(model.parameters()).device)
        )
        assert "fitted" in str(summary)
    for (_, _, a), (_, _, b) in zip(*map(feedback_weights, models), strict=True):
        torch.testing.assert_close(b.cpu(), a, rtol=1e-5, atol=1e-6)


def test_the_device_multiplies_few_bits_where_it_can() -> None:
    for format, can in {Int8(): True, FP8(): torch.cuda.get_device_capability() >= (8, 9)}.items():
        (row,) = set_learning_rule(nn.Linear(64, 64, device=DEVICE), SAME, format=format).rows
        assert (DECOMPRESSED not in row.format) == can


def test_auto_measures_on_the_device() -> None:
    model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)).to(DEVICE, torch.bfloat16)
    x = random(1024, 512).to(DEVICE, torch.bfloat16)
    summary = set_learning_rule(model, SAME, format="auto", inputs=x)
    again = set_learning_rule(model, SAME, format=summary.formats or Dense())
    assert [row.stored_as for row in again.rows] == [row.stored_as for row in summary.rows]
    assert all(g.isfinite().all() for g in gradients(model, x))
