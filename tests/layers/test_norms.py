"""Norm layers whose scale does not carry the error: ``set_learning_rule(..., norms="fixed")``."""

import copy
import io
import pickle
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alignonce import (
    Backpropagation,
    DirectFeedback,
    KolenPollack,
    LearningRule,
    PeriodicAlignment,
    RandomFeedback,
    SignSymmetry,
    SoftAlignment,
    alignment,
    audit_weight_transport,
    evolve,
    exact_gradients,
    feedback_weights,
    set_learning_rule,
)
from alignonce.layers import FeedbackLayer
from alignonce.layers.norms import norm_kind
from alignonce.rules import FixedScale

SOFT = SoftAlignment(cosine=0.5, seed=1)

# layer; shape of x; x's shape for the statistics, and the axes that they are taken over; shape of the scale
CASES: dict[
    str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...], tuple[int, ...], Sequence[int]]
]
CASES = {
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), (5, 3), (5, 3), (0,), (3,)),
    "BatchNorm1d sequence": (lambda: nn.BatchNorm1d(3), (4, 3, 5), (4, 3, 5), (0, 2), (3, 1)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), (4, 3, 5, 2), (4, 3, 5, 2), (0, 2, 3), (3, 1, 1)),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(2), (2, 2, 3, 2, 3), (2, 2, 3, 2, 3), (0, 2, 3, 4), (2, 1, 1, 1)),
    "BatchNorm2d no statistics": (
        lambda: nn.BatchNorm2d(3, track_running_stats=False),
        (4, 3, 5, 2), (4, 3, 5, 2), (0, 2, 3), (3, 1, 1),
    ),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(3, affine=True), (4, 3, 5), (4, 3, 5), (2,), (3, 1)),
    "InstanceNorm2d": (
        lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
        (4, 3, 5, 2), (4, 3, 5, 2), (2, 3), (3, 1, 1),
    ),
    "InstanceNorm3d": (
        lambda: nn.InstanceNorm3d(2, affine=True), (2, 2, 3, 2, 3), (2, 2, 3, 2, 3), (2, 3, 4), (2, 1, 1, 1),
    ),
    "LayerNorm": (lambda: nn.LayerNorm(6), (4, 2, 6), (4, 2, 6), (2,), (6,)),
    "LayerNorm two dimensions": (lambda: nn.LayerNorm((3, 5)), (4, 3, 5), (4, 3, 5), (1, 2), (3, 5)),
    "LayerNorm no bias": (lambda: nn.LayerNorm(6, bias=False), (4, 6), (4, 6), (1,), (6,)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 6), (4, 6, 5), (4, 2, 3, 5), (2, 3), (6, 1)),
    "RMSNorm": (lambda: nn.RMSNorm(6, eps=1e-3), (4, 2, 6), (4, 2, 6), (2,), (6,)),
    "RMSNorm two dimensions": (lambda: nn.RMSNorm((3, 5), eps=1e-3), (4, 3, 5), (4, 3, 5), (1, 2), (3, 5)),
}  # fmt: skip

LAYERS = [pytest.param(make, shape, id=name) for name, (make, shape, *_) in CASES.items()]


def randomised(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float32) -> nn.Module:
    layer = make().to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


def fix(layer: nn.Module) -> nn.Module:
    set_learning_rule(layer, SOFT, norms="fixed")
    return layer


def small_resnet(inplace: bool = True) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace), Block(4), nn.GroupNorm(2, 4),
        nn.Flatten(), nn.Linear(4 * 36, 4),
    )  # fmt: skip


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        y += x
        return F.relu(y, inplace=True)


def loss(output: Tensor) -> Tensor:
    return F.cross_entropy(output, torch.arange(len(output)) % output.shape[1])


def images() -> Tensor:
    return torch.randn(6, 2, 6, 6)


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    output = model(x)
    weights = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)
    return list(torch.autograd.grad((output * weights).sum(), [x, *model.parameters()]))


def reference(
    x: np.ndarray, g: np.ndarray, gamma: np.ndarray, beta: np.ndarray, gamma_b: np.ndarray,
    view: tuple[int, ...], axes: tuple[int, ...], rms: bool, eps: float,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    """y, dx, dγ·1 and dβ·1 (not summed yet), with γ_B in γ's place on the way back."""
    seen = x.reshape(view)
    centre = 0 if rms else seen.mean(axes, keepdims=True)
    sigma = np.sqrt(((seen - centre) ** 2).mean(axes, keepdims=True) + eps)
    normal = (seen - centre) / sigma
    h = (g * gamma_b).reshape(view)
    dx = (
        h - (0 if rms else h.mean(axes, keepdims=True)) - normal * (h * normal).mean(axes, keepdims=True)
    ) / sigma
    normal = normal.reshape(x.shape)
    return normal * gamma + beta, dx.reshape(x.shape), g * normal, g


@pytest.mark.parametrize("name", CASES)
def test_error_goes_back_through_the_fixed_scale_and_parameter_gradients_stay_exact(name: str) -> None:
    make, shape, view, axes, scale_shape = CASES[name]
    layer = randomised(make, torch.float64)
    gamma_b = layer.weight.detach().numpy().copy()
    fix(layer)
    with torch.no_grad():
        layer.weight.normal_()
    bias = layer._parameters.get("bias")
    x, g = torch.randn(2, *shape, dtype=torch.float64)
    x.requires_grad_()
    y = layer(x)
    y.backward(g)
    beta = np.zeros_like(gamma_b) if bias is None else bias.detach().numpy()
    gamma = layer.weight.detach().numpy()
    expected_y, dx, dgamma, dbeta = reference(
        x.detach().numpy(), g.numpy(), gamma.reshape(scale_shape), beta.reshape(scale_shape),
        gamma_b.reshape(scale_shape), view, axes, isinstance(layer, nn.RMSNorm), layer.eps,
    )  # fmt: skip
    padded = (1,) * (len(shape) - len(scale_shape)) + tuple(scale_shape)
    summed = tuple(axis for axis, size in enumerate(padded) if size == 1)
    np.testing.assert_allclose(y.detach().numpy(), expected_y, atol=1e-10)
    np.testing.assert_allclose(x.grad.numpy(), dx, atol=1e-10)
    np.testing.assert_allclose(layer.weight.grad.numpy(), dgamma.sum(summed).reshape(gamma.shape), atol=1e-10)
    if bias is not None:
        np.testing.assert_allclose(bias.grad.numpy(), dbeta.sum(summed).reshape(gamma.shape), atol=1e-10)


def test_in_eval_mode_the_error_goes_back_through_running_statistics_and_the_fixed_scale() -> None:
    layer = randomised(lambda: nn.BatchNorm1d(3), torch.float64)
    layer(torch.randn(8, 3, dtype=torch.float64))
    gamma_b = layer.weight.detach().numpy().copy()
    fix(layer).eval()
    with torch.no_grad():
        layer.weight.normal_()
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    g = torch.randn(5, 3, dtype=torch.float64)
    layer(x).backward(g)
    sigma = np.sqrt(layer.running_var.numpy() + layer.eps)
    np.testing.assert_allclose(x.grad.numpy(), g.numpy() * gamma_b / sigma, atol=1e-12)
    normal = (x.detach().numpy() - layer.running_mean.numpy()) / sigma
    np.testing.assert_allclose(layer.weight.grad.numpy(), (g.numpy() * normal).sum(0), atol=1e-12)


@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_at_the_start_value_statistics_and_gradients_are_the_plain_layers(make, shape) -> None:
    plain = randomised(make)
    layer = fix(copy.deepcopy(plain))
    for training in (True, True, False):
        plain.train(training)
        layer.train(training)
        x = torch.randn(shape)
        assert torch.equal(layer(x), plain(x))
        for ours, theirs in zip(gradients(layer, x), gradients(plain, x), strict=True):
            torch.testing.assert_close(ours, theirs)
        for name, buffer in plain.named_buffers():
            assert torch.equal(layer.get_buffer(name), buffer)


@pytest.mark.parametrize("momentum", [None, 0.0, 0.3])
def test_running_statistics_are_updated_once_with_any_momentum(momentum: float | None) -> None:
    plain = nn.BatchNorm2d(3, momentum=momentum)
    layer = fix(copy.deepcopy(plain))
    for _ in range(3):
        x = torch.randn(4, 3, 5, 5)
        plain(x)
        layer(x).sum().backward()
    assert layer.num_batches_tracked == 3
    assert torch.equal(layer.running_mean, plain.running_mean)
    assert torch.equal(layer.running_var, plain.running_var)


@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_the_scale_is_not_saved_for_the_backward_pass(make, shape) -> None:
    layer = fix(randomised(make))
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (saved.append(t.untyped_storage().data_ptr()), t)[1], lambda t: t
    ):
        layer(torch.randn(shape, requires_grad=True))
    assert saved
    assert layer.weight.untyped_storage().data_ptr() not in saved


def test_norm_layers_keep_exact_gradients_unless_asked_for() -> None:
    model = small_resnet()
    summary = set_learning_rule(model, SOFT)
    assert not any(isinstance(m, FeedbackLayer) for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    norms = [e.name for e in summary.exact if e.reason.startswith("norm layer")]
    assert norms == ["1", "3.norm1", "3.norm2", "4"]
    report = audit_weight_transport(model, images(), loss)
    assert [row.module for row in report.culprits] == norms


@pytest.mark.parametrize("rule", [SOFT, RandomFeedback()], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_a_residual_network_with_fixed_norms_is_free_of_transport(rule: LearningRule, training: bool) -> None:
    model = small_resnet().train(training)
    assert set_learning_rule(model, rule, norms="fixed").exact == ()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert audit_weight_transport(model, images(), loss).free_of_transport


def test_scales_have_rows_in_the_summary_but_are_no_forward_weights() -> None:
    model = small_resnet()
    rows = set_learning_rule(model, SOFT, norms="fixed").rows
    assert [row.name for row in rows] == ["0", "1", "3.conv1", "3.norm1", "3.conv2", "3.norm2", "4", "6"]
    by_name = {row.name: row for row in rows}
    assert by_name["1"].rule == FixedScale()
    assert (by_name["1"].kind, by_name["1"].shape, by_name["1"].extra_bytes) == ("BatchNorm2d", (4,), 16)
    assert by_name["1"].cosine == pytest.approx(1)
    weights = ["0", "3.conv1", "3.conv2", "6"]
    assert [name for name, _, _ in feedback_weights(model)] == weights
    assert list(alignment(model)) == weights
    assert "1.feedback" in model.state_dict()


def test_fixing_norms_does_not_change_the_feedback_weights_of_other_layers() -> None:
    model = small_resnet()
    other = copy.deepcopy(model)
    set_learning_rule(model, SOFT, norms="fixed")
    set_learning_rule(other, SOFT)
    for (_, _, a), (_, _, b) in zip(feedback_weights(model), feedback_weights(other), strict=True):
        assert torch.equal(a, b)


RULES = [SOFT, KolenPollack(), SignSymmetry(), PeriodicAlignment(every=1)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_the_feedback_value_of_a_scale_stays_fixed_whatever_the_rule_and_the_optimiser(rule) -> None:
    model = small_resnet()
    set_learning_rule(model, rule, norms="fixed")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for step in range(1, 4):
        optimizer.zero_grad()
        loss(model(images())).backward()
        optimizer.step()
        evolve(model, step)
    assert torch.equal(model[1].feedback, torch.ones(4))
    assert not torch.equal(model[1].weight, torch.ones(4))


def test_a_scale_of_all_zero_is_allowed_and_keeps_errors_out_of_its_block() -> None:
    model = small_resnet()
    nn.init.zeros_(model[3].norm2.weight)
    summary = set_learning_rule(model, SOFT, norms="fixed")
    assert np.isnan(next(row.cosine for row in summary.rows if row.name == "3.norm2"))
    loss(model(images())).backward()
    assert model[3].norm2.weight.grad.any()
    assert not model[3].conv2.weight.grad.any()


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(5, affine=False), nn.LayerNorm(5, elementwise_affine=False), nn.InstanceNorm1d(5)]
)
def test_norms_without_a_scale_need_nothing(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(5, 5), norm)
    cls = type(norm)
    summary = set_learning_rule(model, SOFT, norms="fixed")
    assert [row.name for row in summary.rows] == ["0"]
    assert summary.exact == ()
    assert type(model[1]) is cls


def test_going_back_gives_plain_norms_and_a_plain_state_dict() -> None:
    model = small_resnet()
    classes, keys = [type(m) for m in model.modules()], list(model.state_dict())
    attributes = [set(vars(m)) for m in model.modules()]
    set_learning_rule(model, SOFT, norms="fixed")
    set_learning_rule(model, Backpropagation())
    assert [type(m) for m in model.modules()] == classes
    assert list(model.state_dict()) == keys
    assert [set(vars(m)) for m in model.modules()] == attributes


def test_a_further_call_begins_anew() -> None:
    model = small_resnet()
    set_learning_rule(model, SOFT, norms="fixed")
    nn.init.constant_(model[1].weight, 3)
    set_learning_rule(model, SOFT, norms="fixed", where=["1"])
    assert torch.equal(model[1].feedback, torch.full((4,), 3.0))
    set_learning_rule(model, SOFT)
    assert type(model[1]) is nn.BatchNorm2d
    assert "1.feedback" not in model.state_dict()


def test_where_chooses_among_norms_too() -> None:
    model = small_resnet()
    summary = set_learning_rule(model, SOFT, norms="fixed", where="3")
    assert [row.name for row in summary.rows] == ["3.conv1", "3.norm1", "3.conv2", "3.norm2"]
    assert [e.name for e in summary.exact] == ["0", "1", "4", "6"]
    set_learning_rule(model, SOFT, norms="fixed", where=lambda _, m: isinstance(m, nn.GroupNorm))
    assert isinstance(model[4], FeedbackLayer)
    set_learning_rule(model, SOFT, where="0")
    assert isinstance(model[4], FeedbackLayer)  # not selected: as it was


def test_nothing_changes_where_an_error_is_raised() -> None:
    model = small_resnet()
    nn.init.zeros_(model[6].weight)
    with pytest.raises(ValueError, match=r"6 \(Linear\): its weight is all zero"):
        set_learning_rule(model, SOFT, norms="fixed")
    assert type(model[1]) is nn.BatchNorm2d
    nn.init.constant_(model[1].weight, float("nan"))
    with pytest.raises(ValueError, match="NaN or infinite values: 1"):
        set_learning_rule(model, SOFT, norms="fixed")
    with pytest.raises(ValueError, match="norms must be 'exact' or 'fixed', got 'strict'"):
        set_learning_rule(model, SOFT, norms="strict")


def test_exact_gradients_are_exact_in_norms_too() -> None:
    plain = small_resnet()
    model = copy.deepcopy(plain)
    set_learning_rule(model, RandomFeedback(), norms="fixed")
    with torch.no_grad():
        for m in (model, plain):
            m[1].weight.fill_(2)
            m[3].norm2.weight.fill_(0.5)
    x = images()
    with exact_gradients(model):
        for ours, theirs in zip(gradients(model, x), gradients(plain, x), strict=True):
            assert torch.equal(ours, theirs)


def test_direct_feedback_can_have_fixed_norms() -> None:
    model, x = small_resnet(), images()
    summary = set_learning_rule(model, DirectFeedback(), norms="fixed", inputs=x)
    assert {row.kind for row in summary.rows if row.rule == FixedScale()} == {"BatchNorm2d", "GroupNorm"}
    assert audit_weight_transport(model, x, loss).free_of_transport
    set_learning_rule(model, DirectFeedback(), inputs=x)
    assert type(model[1]) is nn.BatchNorm2d


class Named(nn.LayerNorm):
    """Only has another name."""


class Doubled(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def test_subclasses_convert_if_they_keep_their_forward_and_are_refused_by_name_if_not() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Named(4), nn.Linear(4, 4))
    set_learning_rule(model, SOFT, norms="fixed")
    assert isinstance(model[1], Named)
    assert audit_weight_transport(model, torch.randn(3, 4), loss).free_of_transport
    twin = pickle.loads(pickle.dumps(model))
    assert isinstance(twin[1], Named)
    assert torch.equal(twin[1].feedback, model[1].feedback)

    model = nn.Sequential(nn.Linear(4, 4), Doubled(4))
    set_learning_rule(model, SOFT)
    with pytest.raises(ValueError, match=r"1 \(Doubled\): a subclass of LayerNorm with a forward of its own"):
        set_learning_rule(model, SOFT, norms="fixed")
    summary = set_learning_rule(model, SOFT, norms="fixed", unconvertible="exact")
    assert [e.name for e in summary.exact] == ["1"]


def test_synchronised_batch_norm_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.SyncBatchNorm(4))
    set_learning_rule(model, SOFT)
    refusal = r"1 \(SyncBatchNorm\): a norm layer of another kind"
    with pytest.raises(ValueError, match=refusal):
        set_learning_rule(model, SOFT, norms="fixed")
    with pytest.raises(ValueError, match=refusal):
        set_learning_rule(model, DirectFeedback(), norms="fixed", inputs=torch.randn(3, 4))


class OwnNorm(nn.Module):
    """A norm layer written by hand, of no known kind."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * F.normalize(x, dim=-1)


def test_a_norm_layer_written_by_hand_is_named_until_it_is_made_known() -> None:
    model = nn.Sequential(nn.Linear(4, 4), OwnNorm(4), nn.Linear(4, 3))
    summary = set_learning_rule(model, SOFT, norms="fixed")
    assert [(e.name, e.reason.split(";")[0]) for e in summary.exact] == [("1", "has parameters of its own")]
    assert [r.module for r in audit_weight_transport(model, torch.randn(3, 4), loss).culprits] == ["1"]
    norm_kind(OwnNorm)
    set_learning_rule(model, SOFT, norms="fixed")
    assert isinstance(model[1], FeedbackLayer)
    assert audit_weight_transport(model, torch.randn(3, 4), loss).free_of_transport


def test_a_layer_whose_forward_is_replaced_on_the_module_itself_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    plain = model[0].forward
    model[0].forward = lambda x: plain(x)
    with pytest.raises(ValueError, match=r"0 \(Linear\): its forward is replaced"):
        set_learning_rule(model, SOFT)


def test_lazy_norms_are_refused_by_name_until_their_first_forward() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.LazyBatchNorm2d())
    with pytest.raises(ValueError, match=r"1 \(LazyBatchNorm2d\): not initialised yet"):
        set_learning_rule(model, SOFT, norms="fixed")
    model(images())
    set_learning_rule(model, SOFT, norms="fixed")
    assert audit_weight_transport(model, images(), lambda out: out.square().sum()).free_of_transport


def test_copies_and_files_keep_the_feedback_value() -> None:
    model = small_resnet()
    set_learning_rule(model, SOFT, norms="fixed")
    nn.init.constant_(model[1].weight, 2)
    stream = io.BytesIO()
    torch.save(model.state_dict(), stream)
    stream.seek(0)
    other = small_resnet()
    nn.init.constant_(other[1].weight, 5)
    set_learning_rule(other, SOFT, norms="fixed")
    other.load_state_dict(torch.load(stream, weights_only=True))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), other):
        assert torch.equal(twin[1].feedback, torch.ones(4))
        assert torch.equal(twin[1].weight, torch.full((4,), 2.0))
        x = images()
        for a, b in zip(gradients(twin, x), gradients(model, x), strict=True):
            assert torch.equal(a, b)
    with pytest.warns(UserWarning, match="feedback weights keep their values"):
        model.load_state_dict(small_resnet().state_dict())
    model.double()
    assert model[1].feedback.dtype == torch.float64


@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_compiled_without_graph_breaks(make, shape) -> None:
    layer = fix(randomised(make))
    with torch.no_grad():
        layer.weight.normal_()
    x = torch.randn(shape)
    expected = gradients(layer, x)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for ours, theirs in zip(gradients(compiled, x), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "make", [lambda: nn.LayerNorm(6), lambda: nn.BatchNorm1d(6, track_running_stats=False)]
)
def test_stacked_models_get_their_gradients_from_vmap(make) -> None:
    layers = [fix(randomised(make)) for _ in range(3)]
    with torch.no_grad():
        for layer in layers:
            layer.weight.normal_()
    x = torch.randn(4, 6)
    parameters, buffers = torch.func.stack_module_state(layers)
    template = copy.deepcopy(layers[0])

    def value(parameters, buffers):
        return torch.func.functional_call(template, (parameters, buffers), (x,)).pow(3).sum()

    found = torch.vmap(torch.func.grad(value))(parameters, buffers)
    for i, layer in enumerate(layers):
        layer(x).pow(3).sum().backward()
        torch.testing.assert_close(found["weight"][i], layer.weight.grad)
        torch.testing.assert_close(found["bias"][i], layer.bias.grad)


def test_checkpointed_block_gets_the_same_gradients() -> None:
    model = small_resnet().eval()
    set_learning_rule(model, SOFT, norms="fixed")
    x = images()
    expected = gradients(model, x)
    model[3] = Checkpointed(model[3])
    for ours, theirs in zip(gradients(model, x), expected, strict=True):
        assert torch.equal(ours, theirs)


class Checkpointed(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.block, x, use_reentrant=False)


def test_autocast_gives_the_plain_layers_values_and_dtypes() -> None:
    plain = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.GroupNorm(2, 4), nn.LayerNorm(4)
    )
    model = copy.deepcopy(plain)
    set_learning_rule(model, SOFT, norms="fixed")
    x = images()
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = model(x), plain(x)
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    ours.sum().backward()
    assert model[1].weight.grad.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert audit_weight_transport(model, x, lambda out: out.square().sum()).free_of_transport


def test_without_gradients_the_layer_runs_once() -> None:
    layer = fix(nn.BatchNorm1d(3))
    with torch.no_grad():
        assert not layer(torch.randn(4, 3)).requires_grad
    with torch.inference_mode():
        layer(torch.randn(4, 3))
    assert layer.num_batches_tracked == 2


def test_a_frozen_scale_gets_no_gradient() -> None:
    layer = fix(nn.LayerNorm(4))
    layer.requires_grad_(False)
    assert not layer(torch.randn(2, 4)).requires_grad
    x = torch.randn(2, 4, requires_grad=True)
    layer(x).square().sum().backward()
    assert layer.weight.grad is None
    assert x.grad is not None
