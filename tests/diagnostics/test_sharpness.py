"""Sharpness in closed form, and what leaves it unchanged."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from alignonce import RandomFeedback
from alignonce.diagnostics import sharpness
from helpers.known_models import (
    Quadratic,
    QuadraticLoss,
    cnn,
    cross_entropy,
    labelled,
    randn,
    seeded,
    symmetric,
    twin,
)

SPECTRUM = [7.0, 3.0, 1.0, 0.5]
A = symmetric(SPECTRUM)
BATCHES = [(randn(2, 1), None)]


def test_one_step_on_a_quadratic_in_closed_form() -> None:
    w = randn(4)
    g, h = (A @ w).numpy(), A.numpy()
    found = sharpness(Quadratic(w), BATCHES, QuadraticLoss(A), 0.1)
    e = 0.1 * g / np.linalg.norm(g)
    assert found.value == pytest.approx(g @ e + e @ h @ e / 2)
    assert found.loss == pytest.approx(float(w @ A @ w / 2))


def test_one_adaptive_step_on_a_quadratic_in_closed_form() -> None:
    w = randn(4)
    g, h = (A @ w).numpy(), A.numpy()
    found = sharpness(Quadratic(w), BATCHES, QuadraticLoss(A), 0.1, adaptive=True)
    e = 0.1 * w.numpy() ** 2 * g / np.linalg.norm(w.numpy() * g)
    assert found.value == pytest.approx(g @ e + e @ h @ e / 2)


def test_many_steps_from_a_minimum_find_the_sharpest_direction() -> None:
    found = sharpness(
        Quadratic(torch.zeros(4, dtype=torch.float64)), BATCHES, QuadraticLoss(A), 0.1, steps=30
    )
    assert found.value == pytest.approx(0.1**2 * SPECTRUM[0] / 2, rel=1e-3)


def test_adaptive_sharpness_does_not_change_when_relu_layers_are_rescaled_and_plain_sharpness_does() -> None:
    model = seeded(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)))
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        scaled[0].weight.mul_(10)
        scaled[0].bias.mul_(10)
        scaled[2].weight.div_(10)
    batches = [labelled(20, 5)]
    torch.testing.assert_close(scaled(batches[0][0]), model(batches[0][0]))
    for steps in (1, 5):
        adaptive = [
            sharpness(m, batches, cross_entropy, 0.3, adaptive=True, steps=steps) for m in (model, scaled)
        ]
        assert adaptive[1].value == pytest.approx(adaptive[0].value, rel=1e-6)
        plain = [sharpness(m, batches, cross_entropy, 0.3, steps=steps).value for m in (model, scaled)]
        assert plain[1] > 2 * plain[0]


def test_a_model_with_feedback_weights_has_the_sharpness_of_its_backpropagation_twin() -> None:
    plain, batches = cnn(), [labelled(5, 2, 6, 6), labelled(2, 2, 6, 6, seed=5)]
    found = sharpness(twin(plain, RandomFeedback()), batches, cross_entropy, 0.05, steps=3)
    assert found.value == pytest.approx(sharpness(plain, batches, cross_entropy, 0.05, steps=3).value)


def test_radius_and_steps_must_be_positive() -> None:
    with pytest.raises(ValueError, match="radius must be positive, got 0"):
        sharpness(Quadratic(randn(4)), BATCHES, QuadraticLoss(A), 0)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        sharpness(Quadratic(randn(4)), BATCHES, QuadraticLoss(A), 0.1, steps=0)
