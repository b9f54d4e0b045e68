"""Curvature of losses whose Hessian is known."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from alignonce import RandomFeedback
from alignonce.diagnostics import curvature_trace, leading_eigenvalues, spectral_density
from helpers.known_models import (
    Quadratic,
    QuadraticLoss,
    cnn,
    cross_entropy,
    half_squared_error,
    labelled,
    mlp,
    randn,
    seeded,
    symmetric,
    twin,
)

SPECTRUM = [9.0, 5.0, 2.0, 0.5, -1.0, -4.0]
MATRICES = pytest.mark.parametrize("matrix", ["hessian", "ggn"])


def quadratic(spectrum: list[float]) -> tuple[nn.Module, list[tuple[torch.Tensor, None]], QuadraticLoss]:
    return Quadratic(randn(len(spectrum))), [(randn(2, 1), None)], QuadraticLoss(symmetric(spectrum))


def dense_hessian(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> np.ndarray:
    """By central differences of backpropagation's gradient."""
    parameters = list(model.parameters())
    vector = torch.nn.utils.parameters_to_vector(parameters).detach()

    def gradient(at: torch.Tensor) -> torch.Tensor:
        torch.nn.utils.vector_to_parameters(at, parameters)
        grads = torch.autograd.grad(cross_entropy(model(batch[0]), batch[1]), parameters)
        return torch.nn.utils.parameters_to_vector(grads)

    step = 1e-5
    rows = [
        (gradient(vector + step * unit) - gradient(vector - step * unit)) / (2 * step)
        for unit in torch.eye(len(vector), dtype=torch.float64)
    ]
    torch.nn.utils.vector_to_parameters(vector, parameters)
    return torch.stack(rows).numpy()


def floats(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(x.float(), y.float()) for x, y in batches]


@MATRICES
def test_eigenvalues_and_trace_of_a_quadratic(matrix) -> None:
    problem = quadratic(SPECTRUM)
    found = leading_eigenvalues(*problem, k=3, matrix=matrix)
    assert found.values == pytest.approx(SPECTRUM[:3])
    assert found.converged == (True, True, True)
    assert max(found.residuals) < 1e-6
    trace = curvature_trace(*problem, matrix=matrix)
    assert trace.value == pytest.approx(sum(SPECTRUM))
    assert trace.standard_error == pytest.approx(0, abs=1e-9)


@MATRICES
def test_density_of_a_quadratic_has_its_masses_where_its_eigenvalues_are(matrix) -> None:
    found = spectral_density(*quadratic([0.0] * 30 + [10.0] * 10), matrix=matrix, runs=40, sigma=0.3)
    width = found.grid[1] - found.grid[0]
    assert found.density.sum() * width == pytest.approx(1, abs=1e-3)
    low = found.grid < 5
    assert found.density[low].sum() * width == pytest.approx(0.75, abs=0.05)
    assert found.grid[low][found.density[low].argmax()] == pytest.approx(0, abs=0.05)
    assert found.grid[~low][found.density[~low].argmax()] == pytest.approx(10, abs=0.05)
    assert found.sigma == 0.3
    np.testing.assert_allclose(np.nansum(found.weights, axis=1), 1)
    moment = np.nansum(found.nodes * found.weights, axis=1).mean()
    assert moment == pytest.approx(2.5, abs=0.5)  # the mean eigenvalue


def test_hessian_of_a_network_agrees_with_finite_differences() -> None:
    model, batch = mlp(), labelled(8, 5)
    expected = np.linalg.eigvalsh(dense_hessian(model, batch))
    found = leading_eigenvalues(model, [batch], cross_entropy, k=3)
    assert found.values == pytest.approx(expected[::-1][:3], rel=1e-5)
    size = len(expected)
    trace = curvature_trace(model, [batch], cross_entropy, products=3 * size)
    assert trace.value == pytest.approx(expected.sum(), rel=1e-5)


def test_ggn_of_softmax_regression_in_closed_form() -> None:
    model, (x, y) = seeded(nn.Linear(4, 3, bias=False)), labelled(6, 4)
    p = torch.softmax(model(x), dim=1).detach().numpy()
    expected = sum(
        np.kron(np.diag(q) - np.outer(q, q), np.outer(s, s)) for q, s in zip(p, x.numpy(), strict=True)
    )
    expected = np.linalg.eigvalsh(expected / 6)[::-1]
    for matrix in ("ggn", "hessian"):  # the model is linear, so that both are the same
        found = leading_eigenvalues(model, [(x, y)], cross_entropy, k=4, matrix=matrix)
        assert found.values == pytest.approx(expected[:4])


@MATRICES
def test_a_model_with_feedback_weights_has_the_curvature_of_its_backpropagation_twin(matrix) -> None:
    plain, batches = cnn(), [labelled(6, 2, 6, 6)]
    model = twin(plain, RandomFeedback())
    (a, b), (c, d), (e, f) = (
        [measure(m, batches, cross_entropy, matrix=matrix, **settings) for m in (model, plain)]
        for measure, settings in [
            (leading_eigenvalues, {"k": 2, "steps": 20}),
            (curvature_trace, {"products": 12}),
            (spectral_density, {"runs": 1, "steps": 10}),
        ]
    )
    assert (a, c) == (b, d)
    np.testing.assert_array_equal(e.density, f.density)


def test_what_feedback_weights_would_give_is_no_hessian() -> None:
    matrix = dense_hessian(twin(mlp(), RandomFeedback()), labelled(8, 5))
    assert np.abs(matrix - matrix.T).max() > 0.1 * np.abs(matrix).max()


@MATRICES
def test_batches_count_by_their_size(matrix) -> None:
    model, (x, y) = mlp(), labelled(8, 5)
    whole = leading_eigenvalues(model, [(x, y)], cross_entropy, matrix=matrix)
    parts = leading_eigenvalues(model, [(x[:7], y[:7]), (x[7:], y[7:])], cross_entropy, matrix=matrix)
    assert parts.values == pytest.approx(whole.values)


@MATRICES
def test_unused_and_linear_parameters_have_no_curvature(matrix) -> None:
    model, batches = mlp(2, 3, 2), [labelled(4, 2, classes=2)]
    plain = curvature_trace(model, batches, cross_entropy, matrix=matrix)
    model.register_parameter("unused", nn.Parameter(randn(3)))
    found = curvature_trace(model, batches, cross_entropy, matrix=matrix)
    assert found.value == pytest.approx(plain.value)
    linear = seeded(nn.Linear(3, 1))
    flat = leading_eigenvalues(linear, [(randn(2, 3), None)], lambda out, _: out.mean(), k=1, matrix=matrix)
    assert flat.values == pytest.approx([0])


@MATRICES
def test_attention_has_second_derivatives(matrix) -> None:
    layer = seeded(nn.TransformerEncoderLayer(4, 2, 6, batch_first=True))
    batches = [(randn(2, 3, 4), randn(2, 3, 4, seed=1))]
    found = leading_eigenvalues(
        twin(layer, RandomFeedback()), batches, half_squared_error, k=1, matrix=matrix
    )
    plain = leading_eigenvalues(layer, batches, half_squared_error, k=1, matrix=matrix)
    assert found.values == pytest.approx(plain.values)
    assert found.values[0] > 0


@MATRICES
def test_recurrent_layers_have_second_derivatives(matrix) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LSTM(2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)[0]

    model, batches = seeded(Model()), [(randn(4, 2, 2), randn(4, 2, 3, seed=1))]
    found = leading_eigenvalues(model.float(), floats(batches), half_squared_error, k=1, matrix=matrix)
    double = leading_eigenvalues(model.double(), batches, half_squared_error, k=1, matrix=matrix)
    assert found.values == pytest.approx(double.values, rel=1e-3)
    assert torch.backends.mkldnn.enabled


def test_frozen_parameters_are_constants() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    with pytest.raises(ValueError, match="k must be in 1 to 24"):
        leading_eigenvalues(model, [labelled(4, 5)], cross_entropy, k=25)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hessian_eigenthings", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'alignonce\[diagnostics\]'"):
        curvature_trace(*quadratic(SPECTRUM))


def test_settings_out_of_range_are_refused() -> None:
    problem = quadratic(SPECTRUM)
    with pytest.raises(ValueError, match="steps must be at least k = 4"):
        leading_eigenvalues(*problem, k=4, steps=3)
    with pytest.raises(ValueError, match="matrix must be"):
        leading_eigenvalues(*problem, matrix="fisher")
    with pytest.raises(ValueError, match="products must be at least 6"):
        curvature_trace(*problem, products=5)
    with pytest.raises(ValueError, match="runs must be positive"):
        spectral_density(*problem, runs=0)
