"""Layers of other libraries that compute what PyTorch's compute, where these are installed."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from alignonce import (
    Backpropagation,
    SoftAlignment,
    audit_weight_transport,
    exact_gradients,
    register_equivalent,
    set_learning_rule,
)


def assert_converts(model: nn.Module, x: Tensor) -> None:
    """Value, exact gradients, audit, pickle and the way back."""
    plain = copy.deepcopy(model)
    assert set_learning_rule(model, SoftAlignment(0.5), norms="fixed").converted_share == 1
    torch.testing.assert_close(model(x), plain(x))
    theirs = torch.autograd.grad(plain(x).sin().sum(), list(plain.parameters()))
    with exact_gradients(model):
        ours = torch.autograd.grad(model(x).sin().sum(), list(model.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    assert audit_weight_transport(model, x, lambda y: y.sin().sum()).free_of_transport
    twin = pickle.loads(pickle.dumps(model))
    assert [type(m) for m in twin.modules()] == [type(m) for m in model.modules()]
    assert sum("feedback" in key for key in model.state_dict()) == sum(
        "weight" in key for key in plain.state_dict()
    )
    set_learning_rule(model, Backpropagation())
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert list(model.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("mode", ["s", "m"])
def test_layers_of_spikingjelly_convert_in_both_step_modes(mode: str) -> None:
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    model = nn.Sequential(
        layer.Conv2d(2, 4, 3, step_mode=mode),
        layer.BatchNorm2d(4, step_mode=mode),
        nn.Tanh(),
        layer.ConvTranspose2d(4, 3, 3, step_mode=mode),
        layer.GroupNorm(1, 3, step_mode=mode),
        layer.Linear(6, 5, step_mode=mode),
    )
    assert_converts(
        model.double().eval(), torch.randn(*([3] * (mode == "m")), 2, 2, 6, 6, dtype=torch.float64)
    )


def test_linear_layers_of_pytorch_geometric_convert() -> None:
    linear = pytest.importorskip("torch_geometric.nn.dense.linear")
    model = nn.Sequential(linear.Linear(4, 5), nn.Tanh(), linear.Linear(5, 3, bias=False))
    assert_converts(model, torch.randn(2, 4))
    with pytest.raises(ValueError, match=r"0 \(Linear\): not initialised yet: run one forward pass"):
        set_learning_rule(nn.Sequential(linear.Linear(-1, 5)), SoftAlignment())


def test_norm_layers_of_timm_convert() -> None:
    layers = pytest.importorskip("timm.layers")
    of_tokens = nn.Sequential(
        nn.Linear(4, 6), layers.LayerNorm(6), layers.RmsNorm(6), layers.LayerNormFp32(6)
    )
    assert_converts(of_tokens, torch.randn(2, 3, 4))
    of_images = nn.Sequential(
        nn.Conv2d(4, 6, 3), layers.LayerNorm2d(6), layers.GroupNorm1(6), layers.RmsNorm2d(6)
    )
    assert_converts(of_images, torch.randn(2, 4, 6, 6))


@pytest.mark.parametrize("plain_class", [nn.LSTM, nn.MultiheadAttention, nn.Embedding, nn.ReLU])
def test_equivalents_of_what_cannot_be_checked_are_refused(plain_class: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match="plain_class must be Linear, a convolution or a norm layer"):
        register_equivalent(type("Own", (nn.Module,), {}), plain_class)


def test_an_equivalent_of_a_convolution_must_derive_from_it() -> None:
    with pytest.raises(ValueError, match="Own must be a subclass of Conv2d"):
        register_equivalent(type("Own", (nn.Module,), {}), nn.Conv2d)


def test_a_registered_layer_that_takes_other_inputs_is_refused() -> None:
    class Pair(nn.Linear):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(a + b)

    register_equivalent(Pair, nn.Linear)
    with pytest.raises(ValueError, match="it takes none of the inputs of such a layer"):
        set_learning_rule(Pair(3, 3), SoftAlignment())


def test_checking_leaves_a_layer_as_it_was() -> None:
    class Running(nn.BatchNorm1d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input)

    register_equivalent(Running, nn.BatchNorm1d)
    model = nn.Sequential(nn.Linear(3, 3), Running(3))
    before = copy.deepcopy(model.state_dict())
    set_learning_rule(model, SoftAlignment(), norms="fixed")
    assert model[1].training
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
