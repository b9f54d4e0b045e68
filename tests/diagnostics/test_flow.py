"""Gradient flow of networks whose gradients are known."""

import math

import numpy as np
import pytest
from torch import nn

from alignonce import RandomFeedback, exact_gradients, feedback_weights
from alignonce.diagnostics import gradient_flow, log_variance, log_variance_over_steps
from helpers.known_models import cnn, cross_entropy, half_squared_error, labelled, randn, seeded, twin


def test_norms_of_a_linear_network_from_output_to_input() -> None:
    model = twin(seeded(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))), RandomFeedback())
    x, y = randn(5, 4), randn(5, 3, seed=1)
    (w1, b1), (w2, b2) = ((w.detach().numpy(), b.numpy()) for _, w, b in feedback_weights(model))
    hidden, g = model[0](x).detach().numpy(), (model(x).detach() - y).numpy() / 5
    flow = gradient_flow(model, (x, y), half_squared_error)
    assert list(flow.input_norms) == list(flow.weight_norms) == ["1", "0"]
    norm = np.linalg.norm
    dx, dw = [norm(g @ b2), norm(g @ b2 @ b1)], [norm(g.T @ hidden), norm((g @ b2).T @ x.numpy())]
    assert list(flow.input_norms.values()) == pytest.approx(dx)
    assert list(flow.weight_norms.values()) == pytest.approx(dw)
    assert flow.input_log_variance == pytest.approx(np.var(np.log(dx)))
    assert flow.weight_log_variance == pytest.approx(np.var(np.log(dw)))
    with exact_gradients(model):
        exact = gradient_flow(model, (x, y), half_squared_error)
    assert exact.input_norms["0"] == pytest.approx(norm(g @ w2 @ w1))


def test_layers_of_a_residual_network_are_in_the_order_of_the_backward_pass() -> None:
    flow = gradient_flow(cnn(), labelled(4, 2, 6, 6), cross_entropy)
    assert list(flow.input_norms) == list(flow.weight_norms) == ["8", "4", "3.conv", "0"]


def test_log_variance_does_not_depend_on_the_unit() -> None:
    assert log_variance([1.0, math.e]) == pytest.approx(0.25)
    assert log_variance([1e-3, 1e-3 * math.e]) == pytest.approx(0.25)
    assert log_variance([2.0, 2.0, 2.0]) == 0


def test_a_vanished_error_makes_it_infinite() -> None:
    assert log_variance([1.0, 0.0]) == math.inf
    assert math.isnan(log_variance([]))
    assert math.isnan(log_variance([0.0, 0.0]))


def test_log_variance_over_steps_is_layer_by_layer() -> None:
    found = log_variance_over_steps([{"a": 1.0, "b": 2.0}, {"a": math.e, "b": 2.0}])
    assert found == pytest.approx({"a": 0.25, "b": 0})
    with pytest.raises(ValueError, match="different layers"):
        log_variance_over_steps([{"a": 1.0}, {"b": 1.0}])
    with pytest.raises(ValueError, match="no steps"):
        log_variance_over_steps([])
