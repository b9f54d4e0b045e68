"""Every kind of layer inside what PyTorch wraps around models: autocast, compile, torch.func, checkpoints."""

import copy
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, stack_module_state, vmap
from torch.utils.checkpoint import checkpoint

from alignonce import SoftAlignment, exact_gradients, feedback_weights, set_learning_rule

SOFT = SoftAlignment(cosine=0.5, seed=3)
SAME = SoftAlignment(cosine=1)


class SelfAttention(nn.Module):
    """Attention as a function of one tensor."""

    def __init__(self, **settings: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, **settings)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


class Squared(nn.Module):
    """A bilinear layer as a function of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.bilinear = nn.Bilinear(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bilinear(x, x)


@dataclass(frozen=True)
class Kind:
    """A layer with a layer before it, so that an error goes through both, and a shape of its input."""

    name: str
    layer: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def model(self, rule: SoftAlignment | None = SOFT, seed: int = 0) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Linear(self.shape[-1], self.shape[-1]), nn.Tanh(), self.layer())
        if rule is not None:
            set_learning_rule(model, rule)
        return model

    def input(self) -> Tensor:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(1)).requires_grad_()


KINDS = [
    Kind("linear", lambda: nn.Linear(4, 3), (5, 4)),
    Kind("bilinear", Squared, (5, 4)),
    Kind("conv1d", lambda: nn.Conv1d(2, 4, 3, stride=2, groups=2, padding=1), (3, 2, 7)),
    Kind("conv2d", lambda: nn.Conv2d(2, 3, 2, padding="same", padding_mode="circular"), (3, 2, 4, 4)),
    Kind("conv3d", lambda: nn.Conv3d(2, 3, 2), (3, 2, 3, 3, 3)),
    Kind("conv_transpose1d", lambda: nn.ConvTranspose1d(2, 3, 3, stride=2, output_padding=1), (3, 2, 4)),
    Kind("conv_transpose2d", lambda: nn.ConvTranspose2d(2, 4, 3, groups=2, padding=1), (3, 2, 3, 3)),
    Kind("conv_transpose3d", lambda: nn.ConvTranspose3d(2, 3, 2, bias=False), (3, 2, 2, 3, 3)),
    Kind("attention", SelfAttention, (3, 5, 4)),
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
main_kinds = pytest.mark.parametrize(
    "kind",
    [k for k in KINDS if k.name in ("linear", "bilinear", "conv2d", "conv_transpose1d", "attention")],
    ids=lambda kind: kind.name,
)


def gradients(output: Tensor, model: nn.Module, x: Tensor | None = None) -> list[Tensor]:
    wanted = [p for p in model.parameters() if p.requires_grad] + ([] if x is None else [x])
    return list(torch.autograd.grad(output.float().cos().sum(), wanted))


def close(ours: Iterable[Tensor], expected: Iterable[Tensor], tolerance: float = 1e-5) -> None:
    for a, e in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance)


# -- autocast -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [k for k in KINDS if k.name != "bilinear"], ids=lambda kind: kind.name)
def test_autocast_gives_the_dtype_of_the_plain_layer_and_gradients_of_the_parameters_dtype(
    kind: Kind,
) -> None:
    plain, model, x = kind.model(None), kind.model(SAME), kind.input()
    with torch.autocast("cpu", torch.bfloat16):
        value, output = plain(x), model(x)
    assert output.dtype == value.dtype
    close([output], [value], tolerance=2e-2)
    ours, expected = gradients(output, model, x), gradients(value, plain, x)
    assert all(g.dtype == torch.float32 for g in ours)
    scale = max(float(e.abs().max()) for e in expected)
    for a, e in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0.05, atol=0.02 * scale)


@every_kind
def test_autocast_leaves_float64_alone(kind: Kind) -> None:
    model = kind.model().double()
    x = kind.input().detach().double().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x)
    assert output.dtype == torch.float64
    close([output], [model(x)])
    close(gradients(output, model, x), gradients(model(x), model, x))


@main_kinds
def test_the_backward_pass_may_run_inside_autocast_too(kind: Kind) -> None:
    model, x = kind.model(), kind.input()
    with torch.autocast("cpu", torch.bfloat16):
        inside = gradients(model(x), model, x)
        output = model(x)
    close(inside, gradients(output, model, x), tolerance=0.05)


def test_autocast_to_float16_and_inputs_of_the_lower_dtype() -> None:
    model = KINDS[0].model()
    with torch.autocast("cpu", torch.float16):
        output = model(KINDS[0].input().half())
    assert output.dtype == torch.float16
    assert all(g.dtype == torch.float32 for g in gradients(output, model))


def test_bilinear_under_autocast_computes_in_the_widest_dtype_as_the_plain_layer_does() -> None:
    plain, layer = (nn.Bilinear(4, 3, 2) for _ in range(2))
    layer.load_state_dict(plain.state_dict())
    set_learning_rule(layer, SAME)
    x1, x2 = torch.randn(5, 4, requires_grad=True), torch.randn(5, 3)
    with torch.autocast("cpu", torch.bfloat16):
        output, value = layer(x1, x2), plain(x1, x2)
    assert output.dtype == value.dtype == torch.float32
    close(gradients(output, layer, x1), gradients(value, plain, x1))
    # On CUDA the plain layer takes inputs of two dtypes too.
    x1, x2 = torch.randn(5, 4).bfloat16().requires_grad_(), torch.randn(5, 3).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(x1, x2)
    assert output.dtype == torch.float32
    output.sum().backward()
    assert x1.grad is not None
    assert x1.grad.dtype == torch.bfloat16


# -- compile --------------------------------------------------------------------------------------------


def compiling(test: Callable[..., None]) -> Callable[..., None]:
    # The compiler makes an instance of autograd.Function, against its own advice.
    warning = "ignore:.*should not be instantiated:DeprecationWarning"
    return pytest.mark.usefixtures("fresh_compiler")(pytest.mark.filterwarnings(warning)(test))


@every_kind
@compiling
def test_a_compiled_model_gives_the_eager_values_and_gradients_without_graph_breaks(kind: Kind) -> None:
    model, x = kind.model(), kind.input()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    output, expected = compiled(x), model(x)
    close([output], [expected])
    close(gradients(output, model, x), gradients(expected, model, x))


@compiling
def test_inductor_gives_the_eager_values_and_gradients() -> None:
    model, x = KINDS[0].model(), KINDS[0].input()
    output, expected = torch.compile(model, fullgraph=True)(x), model(x)
    close([output], [expected])
    close(gradients(output, model, x), gradients(expected, model, x))


@compiling
def test_a_compiled_model_follows_frozen_parameters_exact_gradients_and_autocast() -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    plain = copy.deepcopy(model)
    set_learning_rule(model, SOFT)
    x = torch.randn(3, 2, 7).requires_grad_()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    feedback = gradients(compiled(x), model, x)
    close(feedback, gradients(model(x), model, x))
    with exact_gradients(model):
        exact = gradients(compiled(x), model, x)
    close(exact, gradients(plain(x), plain, x))
    assert not torch.allclose(exact[0], feedback[0], rtol=1e-2)
    close(gradients(compiled(x), model, x), feedback)

    model[2].weight.requires_grad_(False)
    close(gradients(compiled(x), model, x), gradients(model(x), model, x))
    model[2].weight.requires_grad_(True)

    with torch.autocast("cpu", torch.bfloat16):
        output, expected = compiled(x), model(x)
    assert output.dtype == torch.bfloat16
    close(gradients(output, model, x), gradients(expected, model, x), tolerance=0.05)


@compiling
def test_a_compiled_function_may_hold_autocast() -> None:
    model, x = KINDS[0].model(), KINDS[0].input()

    def forward(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)

    output = torch.compile(forward, fullgraph=True, backend="aot_eager")(x)
    assert output.dtype == torch.bfloat16
    close(gradients(output, model, x), gradients(forward(x), model, x), tolerance=0.05)


@compiling
def test_a_compiled_model_takes_batches_of_any_size() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    set_learning_rule(model, SOFT)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (2, 5, 7):
        x = torch.randn(n, 1, 4, 4)
        close(gradients(compiled(x), model), gradients(model(x), model))


@compiling
def test_the_context_of_exact_gradients_may_be_compiled() -> None:
    model, x = KINDS[0].model(), KINDS[0].input()

    def forward(x: Tensor) -> Tensor:
        with exact_gradients(model):
            return model(x)

    output = torch.compile(forward, fullgraph=True, backend="aot_eager")(x)
    close(gradients(output, model, x), gradients(forward(x), model, x))


# -- torch.func -----------------------------------------------------------------------------------------

# attention draws random numbers for its dropout, were there any
vmap_warnings = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")


@every_kind
def test_functional_call_and_grad_give_the_gradients_of_backward(kind: Kind) -> None:
    model, x = kind.model(), kind.input().detach()
    parameters = {k: p.detach() for k, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(model, parameters, (x,)).cos().sum()

    ours = grad(loss)(parameters, x)
    close(ours.values(), gradients(model(x), model))
    x.requires_grad_()
    close([grad(loss, argnums=1)(parameters, x)], gradients(model(x), model, x)[-1:])


@every_kind
@vmap_warnings
def test_vmap_over_stacked_models_gives_each_model_its_own_feedback(kind: Kind) -> None:
    models, x = [kind.model(SoftAlignment(0.5, seed), seed) for seed in range(3)], kind.input().detach()
    parameters, buffers = stack_module_state(models)
    assert any("feedback" in name for name in buffers)
    base = copy.deepcopy(models[0]).to("meta")

    def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(base, (parameters, buffers), (x,)).cos().sum()

    stacked = vmap(grad(loss), (0, 0, None))(parameters, buffers, x)
    for i, model in enumerate(models):
        close([g[i] for g in stacked.values()], gradients(model(x), model))


@every_kind
@vmap_warnings
def test_backward_outside_vmap_gives_each_model_the_gradients_of_its_own(kind: Kind) -> None:
    models, x = [kind.model(SoftAlignment(0.5, seed), seed) for seed in range(3)], kind.input().detach()
    parameters, buffers = stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")

    def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(base, (parameters, buffers), (x,)).cos().sum()

    vmap(loss, (0, 0, None))(parameters, buffers, x).sum().backward()
    for i, model in enumerate(models):
        close([p.grad[i] for p in parameters.values()], gradients(model(x), model))


@every_kind
@vmap_warnings
def test_gradients_of_single_samples_are_those_of_batches_of_one(kind: Kind) -> None:
    model, x = kind.model(), kind.input().detach()
    parameters = {k: p.detach() for k, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(model, parameters, (sample.unsqueeze(0),)).cos().sum()

    samples = vmap(grad(loss), (None, 0))(parameters, x)
    for i in range(len(x)):
        close([g[i] for g in samples.values()], gradients(model(x[i : i + 1]), model))


@main_kinds
def test_batched_gradients_are_those_of_one_error_after_another(kind: Kind) -> None:
    model, x = kind.model(), kind.input()
    output = model(x)
    errors = torch.randn(4, *output.shape)
    wanted = [*model.parameters(), x]
    batched = torch.autograd.grad(output, wanted, errors, is_grads_batched=True, retain_graph=True)
    for i, error in enumerate(errors):
        close([g[i] for g in batched], torch.autograd.grad(output, wanted, error, retain_graph=True))


@every_kind
def test_forward_mode_gives_the_derivatives_of_the_forward_pass(kind: Kind) -> None:
    model, x = kind.model(), kind.input().detach()
    tangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    ours = jvp(model, (x,), (tangent,))
    with exact_gradients(model):
        close(ours, jvp(model, (x,), (tangent,)))


# -- what the graph holds -------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
def test_the_graph_of_a_model_holds_no_forward_weight(kind: Kind, autocast: bool) -> None:
    def held(model: nn.Module) -> list[Tensor]:
        saved: list[Tensor] = []
        with (
            torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t),
            torch.autocast("cpu", torch.bfloat16, enabled=autocast and kind.name != "bilinear"),
        ):
            model(kind.input())
        assert saved
        # A cast or a transposed copy of W is W too: compare the values, whatever their order.
        weights = [p for n, p in model.named_parameters() if "weight" in n]
        weights += [w.bfloat16().float() for w in weights]
        weights += [chunk for w in weights for chunk in w.chunk(3)]
        sums = [w.detach().flatten().sort().values for w in weights]
        return [
            t
            for t in saved
            if any(
                t.numel() == s.numel() and torch.equal(t.detach().float().flatten().sort().values, s)
                for s in sums
            )
        ]

    assert not held(kind.model())
    assert held(kind.model(None)), "the check must find W where it is held"


# -- copies, checkpoints, repeated use ------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["deepcopy", "pickle"],
)
def test_a_copy_learns_by_the_same_feedback_and_shares_nothing(
    kind: Kind, duplicate: Callable[[nn.Module], nn.Module]
) -> None:
    class_names = [type(m).__name__ for m in kind.model().modules()]
    model, x = kind.model(), kind.input()
    twin = duplicate(model)
    assert [type(m).__name__ for m in twin.modules()] == class_names
    close(gradients(twin(x), twin, x), gradients(model(x), model, x), tolerance=0)
    for (_, _, a), (_, _, b) in zip(feedback_weights(twin), feedback_weights(model), strict=True):
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr()


@pytest.mark.parametrize("rule", [SAME, SOFT], ids=["same", "soft"])
def test_a_layer_used_twice_adds_up_the_gradients_of_both_uses(rule: SoftAlignment) -> None:
    layer = nn.Linear(4, 4, dtype=torch.float64)
    set_learning_rule(layer, rule)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    layer(layer(x).tanh()).backward(torch.ones(3, 4, dtype=torch.float64))
    w, feedback, b = (t.detach().numpy() for t in (layer.weight, layer.feedback, layer.bias))
    first = x.detach().numpy() @ w.T + b
    hidden = torch.from_numpy(first).tanh().numpy()
    error = torch.ones(3, 4, dtype=torch.float64).numpy()
    below = (error @ feedback) * (1 - hidden**2)
    expected = [
        error.T @ hidden + below.T @ x.detach().numpy(),
        error.sum(0) + below.sum(0),
        below @ feedback,
    ]
    close([layer.weight.grad, layer.bias.grad, x.grad], map(torch.from_numpy, expected), tolerance=1e-12)


@every_kind
@pytest.mark.parametrize("reentrant", [False, True], ids=["not_reentrant", "reentrant"])
def test_checkpoints_do_not_change_gradients(kind: Kind, reentrant: bool) -> None:
    model, x = kind.model(), kind.input()
    expected = gradients(model(x), model, x)
    checkpoint(model, x, use_reentrant=reentrant).cos().sum().backward()
    close([*(p.grad for p in model.parameters()), x.grad], expected)


@every_kind
@pytest.mark.parametrize("device", ["default", "context"])
def test_a_default_device_does_not_matter_to_layers_that_are_elsewhere(kind: Kind, device: str) -> None:
    model, x = kind.model(), kind.input()
    expected = gradients(model(x), model, x)
    if device == "context":
        with torch.device("meta"):
            ours = gradients(model(x), model, x)
    else:
        torch.set_default_device("meta")
        try:
            ours = gradients(model(x), model, x)
        finally:
            torch.set_default_device(None)
    close(ours, expected)


@every_kind
def test_a_graph_that_is_kept_can_be_walked_twice(kind: Kind) -> None:
    model, x = kind.model(), kind.input()
    loss = model(x).cos().sum()
    loss.backward(retain_graph=True)
    once = [p.grad.clone() for p in model.parameters()]
    loss.backward()
    close([p.grad for p in model.parameters()], [2 * g for g in once])
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@main_kinds
def test_weights_may_change_in_place_between_forward_and_backward(kind: Kind) -> None:
    # Pipelined and asynchronous training do so; backpropagation refuses, since it needs the old W.
    model, x = kind.model(), kind.input()
    expected = gradients(model(x), model, x)
    output = model(x)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    close(gradients(output, model, x), expected)
