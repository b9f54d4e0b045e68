"""Perturbed weights: known values, levels, and restoration bit for bit."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from alignonce.robustness import (
    DeviceMismatch,
    Quantisation,
    WeightNoise,
    WeightPerturbation,
    perturbed_weights,
    weight_accuracy,
)
from helpers.robust_models import busy_model, held_out, random_states, state_of, trained

PERTURBATIONS = [
    WeightNoise(0.3),
    WeightNoise(0.1, relative_to="max"),
    Quantisation(3),
    Quantisation(4, per="channel"),
    DeviceMismatch(sigma=0.4, stuck_at_zero=0.2),
]


def perturbed(weight: Tensor, perturbation: WeightPerturbation, seed: int = 0) -> Tensor:
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    layer.weight.data.copy_(weight)
    with perturbed_weights(layer, perturbation, seed):
        return layer.weight.detach().clone()


@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=str)
def test_weights_come_back_bit_for_bit_even_after_an_error(perturbation: WeightPerturbation) -> None:
    model = busy_model()
    model[5].weight.data[0, 0] = -0.0
    model[5].weight.data[0, 1] = 1e-42  # a denormal number
    before = state_of(model), random_states(), [w.data_ptr() for w in model.parameters()]
    bits = model[5].weight.data.view(torch.int32).clone()

    def stop_while_perturbed() -> None:
        with perturbed_weights(model, perturbation):
            assert not torch.equal(model[5].weight.data.view(torch.int32), bits)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop_while_perturbed()
    assert torch.equal(model[5].weight.data.view(torch.int32), bits)
    assert (state_of(model), random_states(), [w.data_ptr() for w in model.parameters()]) == before


def test_only_forward_weights_are_perturbed() -> None:
    model = busy_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with perturbed_weights(model, WeightNoise(1.0)):
        changed = {
            name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
        }
    assert changed == {"0.weight", "5.weight"}


def test_a_graph_recorded_before_gives_its_gradient_after() -> None:
    layer, x = nn.Linear(3, 2), torch.rand(4, 3, requires_grad=True)
    out = layer(x).sum()
    with perturbed_weights(layer, WeightNoise(1.0)):
        pass
    out.backward()
    torch.testing.assert_close(x.grad, layer.weight.detach().sum(0).expand(4, 3))


def test_a_shared_weight_is_perturbed_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    alone = nn.Sequential(nn.Linear(4, 4))
    alone[0].weight.data.copy_(model[0].weight.data)
    with perturbed_weights(model, DeviceMismatch(0.5)), perturbed_weights(alone, DeviceMismatch(0.5)):
        assert torch.equal(model[1].weight, alone[0].weight)


def test_quantisation_of_known_weights() -> None:
    weight = torch.tensor([[-1.0, -0.4, 0.3, 1.0], [0.0, 0.05, -0.1, 0.2]])
    third = 1 / 3
    tensor = torch.tensor([[-1, -third, third, 1], [0, 0, 0, third]])
    channel = torch.tensor([[-1, -third, third, 1], [0, 0.2 * third, -0.4 * third, 0.2]])
    torch.testing.assert_close(perturbed(weight, Quantisation(3)), tensor)
    # 0.05 and -0.1 in steps of 0.2 / 3: 0.75 and -1.5, which round to 1 and (to even) -2.
    channel[1] = torch.tensor([0, 0.2 * third, -0.4 * third, 0.2])
    torch.testing.assert_close(perturbed(weight, Quantisation(3, per="channel")), channel)


@settings(max_examples=40, deadline=None)
@given(bits=st.integers(2, 8), rows=st.integers(1, 5), columns=st.integers(1, 80), seed=st.integers(0, 99))
def test_k_bits_have_at_most_two_to_the_k_levels(bits: int, rows: int, columns: int, seed: int) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    for part, coded in [
        (weight, perturbed(weight, Quantisation(bits))),
        *zip(weight, perturbed(weight, Quantisation(bits, per="channel")), strict=True),
    ]:
        assert len(coded.unique()) <= 2**bits
        step = float(part.abs().max()) / (2 ** (bits - 1) - 1)
        assert float((coded - part).abs().max()) <= step / 2 * (1 + 1e-5)


def test_the_output_channels_of_a_transposed_convolution_are_its_second_dimension() -> None:
    layer = nn.ConvTranspose2d(2, 3, 1)
    layer.weight.data.copy_(torch.tensor([[1.0, 0.01, 0.1], [0.6, 0.006, 0.06]])[:, :, None, None])
    with perturbed_weights(layer, Quantisation(2, per="channel")):
        coded = layer.weight.detach()[:, :, 0, 0].clone()
    torch.testing.assert_close(coded, torch.tensor([[1.0, 0.01, 0.1], [1.0, 0.01, 0.1]]))


def test_zero_weights_stay_zero() -> None:
    for perturbation in PERTURBATIONS:
        assert not perturbed(torch.zeros(2, 3), perturbation).any()


def test_noise_has_its_level_relative_to_the_scale_asked_for() -> None:
    weight = 3 * torch.randn(100, 200, generator=torch.Generator().manual_seed(1)) + 5
    for relative_to, scale in (("std", weight.std()), ("max", weight.abs().max())):
        noise = perturbed(weight, WeightNoise(0.2, relative_to)) - weight
        assert float(noise.std() / scale) == pytest.approx(0.2, rel=0.02)
        assert float(noise.mean() / scale) == pytest.approx(0.0, abs=0.01)


def test_mismatch_is_log_normal_and_the_dead_share_is_zero() -> None:
    weight = torch.full((200, 200), -2.0)
    logs = (perturbed(weight, DeviceMismatch(sigma=0.3)) / weight).log()
    assert float(logs.mean()) == pytest.approx(0, abs=0.01)
    assert float(logs.std()) == pytest.approx(0.3, rel=0.02)
    dead = perturbed(weight, DeviceMismatch(stuck_at_zero=0.25))
    assert set(dead.unique().tolist()) == {-2.0, 0.0}
    assert float((dead == 0).float().mean()) == pytest.approx(0.25, rel=0.05)


def test_accuracy_falls_with_noise_and_seeds_repeat() -> None:
    images, labels = held_out(200)
    levels = [WeightNoise(0.0), WeightNoise(0.3), WeightNoise(3.0), Quantisation(8)]
    rows = weight_accuracy(trained(), images, labels, levels, seeds=(0, 1))
    assert rows == weight_accuracy(trained(), images, labels, levels, seeds=(0, 1))
    assert [(row.perturbation, row.seed) for row in rows] == [
        *((level, seed) for level in levels[:3] for seed in (0, 1)), (levels[3], 0)
    ]  # fmt: skip
    accuracies = [row.accuracy for row in rows]
    assert accuracies[0] == accuracies[1] > accuracies[4] + 0.2
    assert accuracies[4] != accuracies[5]
    assert accuracies[6] == pytest.approx(accuracies[0], abs=0.02)


def test_measuring_leaves_the_model_and_random_states_as_they_were() -> None:
    model, images = busy_model(), torch.rand(5, 1, 8, 8)
    before = state_of(model), random_states()
    weight_accuracy(model, images, torch.arange(5) % 4, PERTURBATIONS)
    assert (state_of(model), random_states()) == before


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="level must be 0 or more, got -1"):
        WeightNoise(-1)
    with pytest.raises(ValueError, match="level must be 0 or more, got nan"):
        WeightNoise(math.nan)
    with pytest.raises(ValueError, match="unknown scale of the noise 'mean'; there are std, max"):
        WeightNoise(1, relative_to="mean")
    with pytest.raises(ValueError, match="bits must be a whole number from 2 to 16, got 1"):
        Quantisation(1)
    with pytest.raises(ValueError, match="there are tensor, channel"):
        Quantisation(4, per="row")
    with pytest.raises(ValueError, match=r"stuck_at_zero must be in \[0, 1\], got 2"):
        DeviceMismatch(stuck_at_zero=2)
    with (
        pytest.raises(ValueError, match="no forward weights"),
        perturbed_weights(nn.BatchNorm2d(2), WeightNoise(1)),
    ):
        pass
