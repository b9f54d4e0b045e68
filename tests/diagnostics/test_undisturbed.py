"""No measurement leaves a trace, and each says clearly what it cannot measure."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alignonce import RandomFeedback, exact_gradients
from alignonce import diagnostics as d
from helpers.known_models import cnn, cross_entropy, labelled, seeded, twin

OTHERS = [seeded(cnn(), seed) for seed in (100, 200)]
"""Made beforehand: making a model draws from the global random state."""

ON_ONE_BATCH: dict[str, Callable[..., Any]] = {
    "functional_alignment": d.functional_alignment,
    "compare_gradients": d.compare_gradients,
    "gradient_flow": d.gradient_flow,
    "effective_ranks": d.effective_ranks,
    "layer_singular_values": lambda m, b, f: d.layer_singular_values(m, b, f, count=2),
}
ON_BATCHES: dict[str, Callable[..., Any]] = {
    "leading_eigenvalues": lambda m, b, f: d.leading_eigenvalues(m, b, f, k=1, steps=3),
    "leading_eigenvalues_ggn": lambda m, b, f: d.leading_eigenvalues(m, b, f, k=1, steps=3, matrix="ggn"),
    "curvature_trace": lambda m, b, f: d.curvature_trace(m, b, f, products=6),
    "spectral_density": lambda m, b, f: d.spectral_density(m, b, f, runs=1, steps=3),
    "sharpness": lambda m, b, f: d.sharpness(m, b, f, 0.1, steps=2),
    "adaptive_sharpness": lambda m, b, f: d.sharpness(m, b, f, 0.1, adaptive=True),
    "surface": lambda m, b, f: d.surface(m, d.random_plane(m), b, f, points=2),
    "surface_batch": lambda m, b, f: d.surface(m, d.random_plane(m), b, f, points=2, batch_statistics=True),
    "interpolate": lambda m, b, f: d.interpolate(m, m, OTHERS[0], b, f, points=3),
    "generalisation": lambda m, b, f: d.generalisation(m, b, b, f),
}
ON_WEIGHTS: dict[str, Callable[..., Any]] = {
    "weight_alignment": lambda m, b, f: d.weight_alignment(m),
    "subspace_alignment": lambda m, b, f: d.subspace_alignment(m, k=2),
    "trajectory_plane": lambda m, b, f: d.trajectory_plane(m, {"run": [m, *OTHERS]}),
    "tracker": lambda m, b, f: d.Tracker({"a": lambda m: float(m.eval()(b[0]).sum().detach())})(0, m),
}
EVERYTHING = {
    **ON_ONE_BATCH,
    **{name: lambda m, b, f, g=g: g(m, [b, b], f) for name, g in ON_BATCHES.items()},
    **ON_WEIGHTS,
}


@pytest.fixture
def model() -> nn.Module:
    """With mixed modes, a frozen parameter, gradients from before and a user's hooks."""
    model = twin(cnn(), RandomFeedback())
    model.train()
    model[3].eval()
    model[4].bias.requires_grad_(False)
    for parameter in list(model.parameters())[:3]:
        parameter.grad = torch.ones_like(parameter)
    model[0].register_forward_hook(lambda *args: None)
    return model


def state(model: nn.Module) -> dict[str, Any]:
    return {
        "random": torch.get_rng_state(),
        "training": [m.training for m in model.modules()],
        "exact": [getattr(m, "exact", None) for m in model.modules()],
        "classes": [type(m) for m in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "identities": [id(t) for t in (*model.parameters(), *model.buffers())],
        "versions": [p._version for p in model.parameters()],
        "values": {k: v.clone() for k, v in model.state_dict().items()},
        "grad_enabled": torch.is_grad_enabled(),
        "fast_path": torch.backends.mha.get_fastpath_enabled(),
    }


def differences(a: Any, b: Any, at: str = "") -> Iterator[str]:
    if isinstance(a, Tensor):
        if not torch.equal(a, b):
            yield at
    elif isinstance(a, dict):
        for key in a:
            yield from differences(a[key], b[key], f"{at}/{key}")
    elif isinstance(a, list):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, f"{at}/{i}")
    elif a != b:
        yield at


@pytest.mark.parametrize("name", EVERYTHING)
def test_nothing_is_left_changed(name: str, model: nn.Module) -> None:
    batch = labelled(4, 2, 6, 6)
    inputs = batch[0].clone()
    before = state(model)
    EVERYTHING[name](model, batch, cross_entropy)
    assert list(differences(before, state(model))) == []
    assert torch.equal(batch[0], inputs)
    assert batch[0].grad is None


@pytest.mark.parametrize("name", [*ON_ONE_BATCH, *ON_BATCHES])
def test_nothing_is_left_changed_by_an_error_half_way(name: str, model: nn.Module) -> None:
    class Stop(Exception):
        pass

    calls = 0

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3 or name in ON_ONE_BATCH:
            raise Stop
        return cross_entropy(output, targets)

    before = state(model)
    with pytest.raises(Stop):
        EVERYTHING[name](model, labelled(4, 2, 6, 6), loss)
    assert list(differences(before, state(model))) == []


@pytest.mark.parametrize("name", [n for n in EVERYTHING if n != "tracker"])
def test_measures_can_be_taken_where_gradients_are_off_and_repeat_themselves(
    name: str, model: nn.Module
) -> None:
    batch = labelled(4, 2, 6, 6)
    first = EVERYTHING[name](model, batch, cross_entropy)
    with torch.no_grad():
        second = EVERYTHING[name](model, batch, cross_entropy)
    assert repr(first) == repr(second)


def test_a_graph_of_the_callers_stays_valid(model: nn.Module) -> None:
    model.eval()
    x, y = labelled(4, 2, 6, 6)
    value = cross_entropy(model(x), y)
    expected = torch.autograd.grad(value, model[0].weight, retain_graph=True)[0]
    for measure in EVERYTHING.values():
        measure(model, (x, y), cross_entropy)
    assert torch.equal(torch.autograd.grad(value, model[0].weight)[0], expected)


@pytest.mark.parametrize("name", [*ON_ONE_BATCH, *ON_BATCHES])
def test_an_empty_batch_is_refused(name: str, model: nn.Module) -> None:
    with pytest.raises(ValueError, match="the batch is empty"):
        EVERYTHING[name](model, labelled(0, 2, 6, 6), cross_entropy)


@pytest.mark.parametrize("name", ON_BATCHES)
def test_no_batches_and_a_single_one_are_refused(name: str, model: nn.Module) -> None:
    with pytest.raises(ValueError, match="there are no batches"):
        ON_BATCHES[name](model, [], cross_entropy)
    with pytest.raises(ValueError, match="put a single one into a list"):
        ON_BATCHES[name](model, labelled(4, 2, 6, 6), cross_entropy)


@pytest.mark.parametrize("name", [*ON_ONE_BATCH, *ON_BATCHES])
def test_a_loss_of_nan_is_refused(name: str, model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"loss .*(nan|finite nowhere)"):
        EVERYTHING[name](model, labelled(4, 2, 6, 6), lambda out, y: cross_entropy(out, y) * torch.nan)


@pytest.mark.parametrize("name", ON_ONE_BATCH)
def test_what_is_no_pair_no_scalar_and_no_model_is_refused(name: str, model: nn.Module) -> None:
    x, y = labelled(4, 2, 6, 6)
    with pytest.raises(ValueError, match=r"pair \(inputs, targets\), got a tensor of shape \(4, 2, 6, 6\)"):
        ON_ONE_BATCH[name](model, x, cross_entropy)
    with pytest.raises(ValueError, match=r"scalar tensor, got a tensor of shape \(4, 3\)"):
        ON_ONE_BATCH[name](model, (x, y), lambda out, y: out)
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got str"):
        ON_ONE_BATCH[name]("model", (x, y), cross_entropy)


def test_the_present_mode_is_measured_and_exact_gradients_is_respected(model: nn.Module) -> None:
    batch = labelled(4, 2, 6, 6)
    trained = d.gradient_flow(model, batch, cross_entropy)
    evaluated = d.gradient_flow(copy.deepcopy(model).eval(), batch, cross_entropy)
    assert trained.weight_norms != evaluated.weight_norms
    with exact_gradients(model):
        exact = d.compare_gradients(model, batch, cross_entropy)
    assert exact.total.angle_deg == 0
