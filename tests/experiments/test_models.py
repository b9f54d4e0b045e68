import math

import pytest
import torch
from small_runs import made_data, small_config
from torch import nn

from alignonce import alignment, feedback_weights
from alignonce.experiments.models import Normalise, build_model, build_run_model
from alignonce.experiments.network_config import NetworkConfig


def build(seed: int = 0, shape=(1, 8, 8), **network) -> nn.Module:
    channels = shape[0]
    return build_model(NetworkConfig(**network), seed, shape, 10, [0.3] * channels, [0.2] * channels)


def test_mlp_has_the_configured_layers():
    model = build(depth=3, width=20)
    shapes = [tuple(m.weight.shape) for m in model.modules() if isinstance(m, nn.Linear)]
    assert shapes == [(20, 64), (20, 20), (20, 20), (10, 20)]


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 17, 23)])
@pytest.mark.parametrize("name", ["mlp", "resnet"])
@pytest.mark.parametrize("depth", [1, 2])
def test_networks_take_images_of_many_shapes(name, shape, depth):
    model = build(shape=shape, model=name, depth=depth)
    assert model(torch.rand(2, *shape)).shape == (2, 10)


def test_default_resnet_has_between_100k_and_300k_weights():
    weights = sum(p.numel() for p in build(shape=(3, 32, 32), model="resnet").parameters())
    assert 100_000 < weights < 300_000


def test_pixels_are_normalised_inside_the_model():
    images = torch.rand(50, 3, 6, 6)
    out = Normalise(images.mean((0, 2, 3)), images.std((0, 2, 3)))(images)
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std((0, 2, 3)), torch.ones(3), atol=1e-5, rtol=0)


def test_constant_channel_is_not_divided_by_zero():
    out = Normalise([0.5, 0.0], [0.0, 2.0])(torch.full((1, 2, 2, 2), 0.5))
    assert torch.isfinite(out).all()
    with pytest.raises(ValueError, match="std must be 0 or more"):
        Normalise([0.5], [-1.0])


@pytest.mark.parametrize(("init", "fans"), [("he", lambda i, o: i / 2), ("glorot", lambda i, o: (i + o) / 2)])
def test_initial_weights_have_the_deviation_of_their_kind_and_biases_are_zero(init, fans):
    model = build(depth=2, width=400, shape=(1, 28, 28), init=init)
    for layer in (m for m in model.modules() if isinstance(m, nn.Linear)):
        expected = math.sqrt(1 / fans(layer.in_features, layer.out_features))
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert not layer.bias.any()


@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_initial_weights_depend_on_the_seed_only_and_leave_the_global_state(name):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build(seed=3, model=name).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = build(seed=3, model=name).state_dict(), build(seed=4, model=name).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_every_rule_starts_from_the_same_forward_weights(name):
    data = made_data()

    def weights(rule: str) -> dict[str, torch.Tensor]:
        config = small_config(model=name, rule=rule)
        model = build_run_model(config, data.image_shape, data.num_classes, data.mean, data.std)
        return dict(model.named_parameters())

    reference = weights("bp")
    for rule in ("fa", "soft:0.5", "soft:1"):
        other = weights(rule)
        assert reference.keys() == other.keys()
        assert all(torch.equal(reference[key], other[key]) for key in reference)


def test_random_feedback_starts_unaligned_though_one_seed_makes_both():
    data = made_data(shape=(1, 28, 28))
    config = small_config(rule="fa", width=200, depth=4)
    model = build_run_model(config, data.image_shape, data.num_classes, data.mean, data.std)
    assert len(list(feedback_weights(model))) == 5
    assert max(abs(cosine) for cosine in alignment(model).values()) < 0.1
