import json

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from alignonce import alignment, audit_weight_transport, evolve, feedback_weights
from alignonce.experiments.config.network import NetworkConfig
from alignonce.experiments.config.rule_specs import KNOWN_RULES
from alignonce.experiments.config.run import CompareConfig, RunConfig
from alignonce.experiments.models import build_model, build_run_model

SHAPE, CLASSES = (1, 8, 8), 10
IMAGES, LABELS = (
    torch.rand(64, *SHAPE, generator=torch.Generator().manual_seed(1)),
    torch.arange(64) % CLASSES,
)
DEEP = {"shortcuts": True, "hidden_norm": "layer"}


def build(**network) -> nn.Module:
    return build_model(NetworkConfig(**{"width": 32} | network), 0, SHAPE, CLASSES, [0.5], [0.3])


def build_run(**run) -> nn.Module:
    return build_run_model(RunConfig(**{"width": 32} | run), SHAPE, CLASSES, [0.5], [0.3])


def by_hand(model: nn.Module, images: Tensor, depth: int, shortcuts: bool, hidden_norm: str) -> Tensor:
    """The network's formula, layer by layer, in float64."""
    state = {name: value.double() for name, value in model.state_dict().items()}
    x = ((images.double() - 0.5) / 0.3).flatten(1)
    for i in range(1, depth + 1):
        h = x @ state[f"net.hidden{i}.weight"].T + state[f"net.hidden{i}.bias"]
        if hidden_norm != "none":
            over = 1 if hidden_norm == "layer" else 0
            h = (h - h.mean(over, keepdim=True)) / (h.var(over, correction=0, keepdim=True) + 1e-5).sqrt()
            h = h * state[f"net.norm{i}.weight"] + state[f"net.norm{i}.bias"]
        h = h.clamp(min=0)
        x = x + h if shortcuts and i > 1 else h
    return x @ state["net.output.weight"].T + state["net.output.bias"]


@pytest.mark.parametrize("shortcuts", [False, True])
@pytest.mark.parametrize("hidden_norm", ["none", "layer", "batch"])
def test_network_computes_its_formula(shortcuts, hidden_norm):
    model = build(depth=4, shortcuts=shortcuts, hidden_norm=hidden_norm)
    expected = by_hand(model, IMAGES, 4, shortcuts, hidden_norm)
    torch.testing.assert_close(model(IMAGES).double(), expected, rtol=1e-3, atol=1e-4)


def test_plain_network_has_the_names_that_saved_runs_have():
    assert [name for name in build(depth=2).state_dict() if name.startswith("net")] == [
        "net.hidden1.weight", "net.hidden1.bias", "net.hidden2.weight", "net.hidden2.bias",
        "net.output.weight", "net.output.bias",
    ]  # fmt: skip


def test_configuration_saved_before_the_options_existed_still_loads():
    old = {
        "model": "mlp", "depth": 10, "width": 256, "init": "he", "norms": "exact", "data": "digits",
        "limit": None, "epochs": 1, "batch_size": 128, "optimizer": "adam", "learning_rate": 1e-4,
        "momentum": 0.9, "weight_decay": 0.0, "device": "auto", "checkpoints": 0, "compile": False,
        "rule": "fa", "seed": 0,
    }  # fmt: skip
    assert RunConfig.model_validate_json(json.dumps(old)) == RunConfig(data="digits", epochs=1, rule="fa")


def test_options_do_not_change_which_numbers_are_drawn():
    plain, normed = build(depth=3), build(depth=3, hidden_norm="layer", shortcuts=True)
    for name in ("hidden1", "hidden3", "output"):
        assert torch.equal(plain.net.get_submodule(name).weight, normed.net.get_submodule(name).weight)


@pytest.mark.parametrize("hidden_norm", ["none", "layer", "batch"])
def test_signal_beside_shortcuts_stays_bounded_at_any_depth(hidden_norm):
    sizes = [
        build(depth=depth, shortcuts=True, hidden_norm=hidden_norm)(IMAGES).std().item()
        for depth in (2, 30, 100)
    ]
    assert max(sizes) < 8
    assert max(sizes) / min(sizes) < 4


@pytest.mark.parametrize("rule", KNOWN_RULES)
def test_every_rule_takes_a_step_at_depth_30(rule):
    model = build_run(depth=30, rule=rule, norms="fixed", **DEEP)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    before = model.net.hidden1.weight.clone()
    F.cross_entropy(model(IMAGES), LABELS).backward()
    optimizer.step()
    evolve(model, 1)
    assert torch.isfinite(model(IMAGES)).all()
    assert not torch.equal(model.net.hidden1.weight, before)


@pytest.mark.parametrize("hidden_norm", ["none", "layer", "batch"])
@pytest.mark.parametrize("rule", ["fa", "soft:0.5"])
def test_no_weight_is_transported_with_fixed_norms(rule, hidden_norm):
    model = build_run(depth=4, rule=rule, norms="fixed", shortcuts=True, hidden_norm=hidden_norm)
    assert audit_weight_transport(
        model, IMAGES, lambda logits: F.cross_entropy(logits, LABELS)
    ).free_of_transport


@pytest.mark.parametrize("rule", ["fa", "soft:0.5", "sign"])
def test_feedback_scale_multiplies_every_feedback_weight_and_leaves_cosines(rule):
    usual, scaled = (build_run(depth=3, rule=rule, feedback_scale=scale) for scale in (1.0, 0.25))
    pairs = list(zip(feedback_weights(usual), feedback_weights(scaled), strict=True))
    assert len(pairs) == 4
    for (_, weight, feedback), (_, same_weight, smaller) in pairs:
        assert torch.equal(weight, same_weight)
        torch.testing.assert_close(smaller, 0.25 * feedback)
    assert alignment(scaled) == pytest.approx(alignment(usual), abs=1e-6)


def test_feedback_scale_scales_the_error_once_per_layer_that_it_passes():
    def gradient(scale: float) -> Tensor:
        model = build_run(depth=3, rule="soft:0.5", feedback_scale=scale)
        F.cross_entropy(model(IMAGES), LABELS).backward()
        return model.net.hidden1.weight.grad

    torch.testing.assert_close(gradient(0.5), 0.5**3 * gradient(1.0))


def test_backpropagation_has_no_feedback_to_scale():
    model, plain = build_run(depth=2, rule="bp", feedback_scale=0.5), build_run(depth=2, rule="bp")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("rule", ["periodic", "usf", "frsf", "brsf", "kp", "mirror", "dfa"])
def test_feedback_scale_is_refused_where_it_would_not_last(rule):
    with pytest.raises(ValidationError, match=f"feedback_scale must be 1 with the rule {rule}"):
        RunConfig(rule=rule, feedback_scale=0.5)
    with pytest.raises(ValidationError, match="feedback_scale must be 1"):
        CompareConfig(rules=("bp", "fa", rule), feedback_scale=0.5)
    RunConfig(rule=rule, feedback_scale=1)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"model": "resnet", "shortcuts": True}, "shortcuts is for mlp only"),
        ({"model": "resnet", "hidden_norm": "layer"}, "hidden_norm is for mlp only"),
        ({"depth": 1, "shortcuts": True}, "depth must be at least 2 with shortcuts"),
        ({"hidden_norm": "group"}, "hidden_norm"),
        ({"feedback_scale": 0}, "feedback_scale"),
        ({"feedback_scale": float("inf")}, "feedback_scale"),
    ],
)
def test_senseless_options_are_refused(bad, message):
    with pytest.raises(ValidationError, match=message):
        RunConfig(**bad)
