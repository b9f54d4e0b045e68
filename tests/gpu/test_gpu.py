"""The core operations on a CUDA device: its kernels, dtypes, autocast, gradient scaling and compiler."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from alignonce import LearningRule, exact_gradients, set_learning_rule
from helpers.matrix import KINDS as MATRIX_KINDS
from helpers.matrix import RULES
from layers.test_contexts import KINDS, SAME, SOFT, Kind, compiling, every_kind

pytestmark = pytest.mark.gpu
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

DEVICE = "cuda"


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    """Float32 products in full precision, so that a float32 result is one."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def pair(kind: Kind, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module, Tensor]:
    """A plain model, the same one with B = W, and an input."""
    plain, model = (kind.model(rule).to(DEVICE, dtype) for rule in (None, SAME))
    return plain, model, kind.input().detach().to(DEVICE, dtype).requires_grad_()


def gradients(output: Tensor, model: nn.Module, x: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(output.float().cos().sum(), [*model.parameters(), x]))


def close(ours: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    scale = max(float(e.detach().abs().max()) for e in expected)
    for a, e in zip(ours, expected, strict=True):
        assert a.dtype == e.dtype
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance * scale)


@every_kind
def test_float64_gradients_are_those_of_the_cpu(kind: Kind) -> None:
    cpu, x = kind.model(SOFT).double(), kind.input().detach().double().requires_grad_()
    gpu, on_gpu = copy.deepcopy(cpu).to(DEVICE), x.detach().to(DEVICE).requires_grad_()
    expected = torch.autograd.grad(cpu(x).cos().sum(), [*cpu.parameters(), x])
    ours = torch.autograd.grad(gpu(on_gpu).cos().sum(), [*gpu.parameters(), on_gpu])
    close([g.cpu() for g in ours], list(expected), tolerance=1e-9)


@every_kind
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05), (torch.float16, 0.01)], ids=str
)
def test_gradients_are_those_of_backpropagation_in_every_dtype_if_feedback_equals_weight(
    kind: Kind, dtype: torch.dtype, tolerance: float
) -> None:
    plain, model, x = pair(kind, dtype)
    output, value = model(x), plain(x)
    assert output.dtype == dtype
    close([output], [value], tolerance)
    close(gradients(output, model, x), gradients(value, plain, x), tolerance)


@every_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_gives_the_dtype_of_the_plain_layer_and_gradients_of_the_parameters_dtype(
    kind: Kind, dtype: torch.dtype
) -> None:
    plain, model, x = pair(kind)
    with torch.autocast(DEVICE, dtype):
        output, value = model(x), plain(x)
    close([output], [value], tolerance=0.03)
    close(gradients(output, model, x), gradients(value, plain, x), tolerance=0.05)


def test_autocast_leaves_float64_alone() -> None:
    _, model, x = pair(KINDS[0], torch.float64)
    with torch.autocast(DEVICE, torch.float16):
        assert model(x).dtype == torch.float64


@every_kind
def test_scaled_float16_training_steps_follow_the_plain_model(kind: Kind) -> None:
    plain, model, x = pair(kind)
    for m in (plain, model):
        optimizer = torch.optim.SGD(m.parameters(), lr=0.01)
        scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**10)
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast(DEVICE, torch.float16):
                loss = m(x).float().square().mean()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in m.parameters())
            scaler.step(optimizer)
            scaler.update()
        assert scaler.get_scale() == 2.0**10, "no step was skipped"
    close(list(model.parameters()), list(plain.parameters()), tolerance=0.01)


def test_an_overflow_of_float16_is_seen_by_the_scaler() -> None:
    _, model, x = pair(KINDS[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**40)
    before = [p.detach().clone() for p in model.parameters()]
    with torch.autocast(DEVICE, torch.float16):
        loss = model(x).float().square().sum()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() < 2.0**40
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_bilinear_under_autocast_takes_inputs_of_two_dtypes_as_the_plain_layer_does() -> None:
    plain = nn.Bilinear(4, 3, 2, device=DEVICE)
    layer = copy.deepcopy(plain)
    set_learning_rule(layer, SAME)
    x1, x2 = torch.randn(5, 4, device=DEVICE, dtype=torch.half), torch.randn(5, 3, device=DEVICE)
    x1.requires_grad_()
    with torch.autocast(DEVICE, torch.float16):
        output, value = layer(x1, x2), plain(x1, x2)
    close([output], [value], tolerance=1e-4)
    close(gradients(output, layer, x1), gradients(value, plain, x1), tolerance=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_convolution_keeps_channels_last(dtype: torch.dtype) -> None:
    plain = nn.Conv2d(8, 16, 3, padding=1, device=DEVICE, dtype=dtype).to(memory_format=torch.channels_last)
    layer = copy.deepcopy(plain)
    set_learning_rule(layer, SOFT)
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    x = torch.randn(2, 8, 6, 6, device=DEVICE, dtype=dtype).to(memory_format=torch.channels_last)
    output = layer(x.requires_grad_())
    assert output.stride() == plain(x).stride()
    output.float().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("causal", [False, True])
def test_fused_attention_kernels_give_the_gradients_of_the_plain_layer(causal: bool) -> None:
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(128, 2, batch_first=True, device=DEVICE, dtype=torch.bfloat16)
    layer = copy.deepcopy(plain)
    set_learning_rule(layer, SAME)
    x = torch.randn(2, 32, 128, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    mask = nn.Transformer.generate_square_subsequent_mask(32, DEVICE, torch.bfloat16) if causal else None
    call = {"need_weights": False, "attn_mask": mask, "is_causal": causal}
    output, value = layer(x, x, x, **call)[0], plain(x, x, x, **call)[0]
    assert output.stride() == value.stride()
    close([output], [value], tolerance=0.02)
    close(gradients(output, layer, x), gradients(value, plain, x), tolerance=0.05)


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[3], KINDS[8]], ids=lambda kind: kind.name)
@compiling
def test_a_compiled_model_gives_the_eager_gradients_under_autocast_too(kind: Kind) -> None:
    model, x = kind.model(SOFT).to(DEVICE), kind.input().detach().to(DEVICE).requires_grad_()
    compiled = torch.compile(model, fullgraph=True)
    close(gradients(compiled(x), model, x), gradients(model(x), model, x), tolerance=1e-4)
    with torch.autocast(DEVICE, torch.bfloat16):
        output, expected = compiled(x), model(x)
    close(gradients(output, model, x), gradients(expected, model, x), tolerance=0.05)
    with exact_gradients(model):
        exact = gradients(compiled(x), model, x)
        close(exact, gradients(model(x), model, x), tolerance=1e-4)


@pytest.mark.parametrize("rule", [rule for rule in RULES.values() if not rule.evolves], ids=str)
def test_a_step_captured_in_a_cuda_graph_repeats_the_eager_gradients(rule: LearningRule) -> None:
    kind = MATRIX_KINDS["Linear"]
    model, x = kind.model(rule).to(DEVICE), kind.inputs().to(DEVICE)
    graphed = torch.cuda.make_graphed_callables(copy.deepcopy(model), (x,))
    parameters = [*graphed.parameters()]
    ours = list(torch.autograd.grad(graphed(x).cos().sum(), parameters))
    expected = list(torch.autograd.grad(model(x).cos().sum(), [*model.parameters()]))
    close(ours, expected, tolerance=1e-5)
