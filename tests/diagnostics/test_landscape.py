"""Loss on planes and lines, against losses known in closed form."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from alignonce import RandomFeedback
from alignonce.diagnostics import Plane, interpolate, random_plane, surface
from helpers.known_models import (
    Quadratic,
    QuadraticLoss,
    cnn,
    cross_entropy,
    labelled,
    mlp,
    randn,
    symmetric,
    twin,
)

A = symmetric([7.0, 3.0, 1.0, 0.5])
BATCHES = [(randn(2, 1), None)]


def trained(model: nn.Module, seed: int) -> nn.Module:
    """Other weights and other BatchNorm statistics."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * randn(*parameter.shape, seed=seed)
        model.train()(labelled(8, 2, 6, 6, seed=seed)[0])
    return model.eval()


def test_surface_of_a_quadratic_in_closed_form() -> None:
    origin, dx, dy = randn(4), randn(4, seed=1), randn(4, seed=2)
    found = surface(
        Quadratic(randn(4, seed=3)), Plane(origin, dx, dy), BATCHES, QuadraticLoss(A), x=[-1, 0, 2], y=[0, 3]
    )
    for j, y in enumerate([0, 3]):
        for i, x in enumerate([-1, 0, 2]):
            w = (origin + x * dx + y * dy).numpy()
            assert found.loss[j, i] == pytest.approx(w @ A.numpy() @ w / 2)
    assert np.isnan(found.accuracy).all()


def test_centre_of_a_random_plane_is_the_model_itself() -> None:
    model = trained(cnn(), 1)
    x, y = labelled(8, 2, 6, 6)
    found = surface(model, random_plane(model), [(x[:5], y[:5]), (x[5:], y[5:])], cross_entropy, points=3)
    assert found.loss[1, 1] == pytest.approx(float(cross_entropy(model(x), y).detach()))
    assert found.accuracy[1, 1] == float((model(x).argmax(1) == y).double().mean())
    assert found.loss.min() < found.loss.max()


def test_batch_statistics_replace_the_stored_ones() -> None:
    model, (x, y) = trained(cnn(), 1), labelled(8, 2, 6, 6)
    stored, own = (
        surface(model, random_plane(model), [(x, y)], cross_entropy, x=[0], y=[0], batch_statistics=flag)
        for flag in (False, True)
    )
    model[1].train()
    assert own.loss[0, 0] == pytest.approx(float(cross_entropy(model(x), y).detach()))
    assert own.loss[0, 0] != stored.loss[0, 0]


def test_infinite_losses_far_out_are_kept_and_a_loss_finite_nowhere_is_refused() -> None:
    plane = Plane(randn(4), randn(4, seed=1), randn(4, seed=2))
    found = surface(Quadratic(randn(4)), plane, BATCHES, QuadraticLoss(A), x=[0, 1e200], y=[0])
    assert np.isfinite(found.loss[0, 0])
    assert not np.isfinite(found.loss[0, 1])
    with pytest.raises(ValueError, match="finite nowhere"):
        surface(Quadratic(randn(4)), plane, BATCHES, lambda out, _: out.sum() * torch.nan, points=2)


def test_interpolation_between_identical_models_is_flat() -> None:
    model = trained(cnn(), 1)
    found = interpolate(model, model, copy.deepcopy(model), [labelled(8, 2, 6, 6)], cross_entropy, points=5)
    assert np.ptp(found.loss) == 0
    assert found.barrier == 0
    np.testing.assert_allclose(found.alpha, [0, 0.25, 0.5, 0.75, 1])


@pytest.mark.parametrize("form", ["model", "state_dict"])
def test_the_ends_of_a_line_are_the_solutions_with_their_batchnorm_statistics(form) -> None:
    a, b, batch = trained(cnn(), 1), trained(cnn(), 2), labelled(8, 2, 6, 6)
    ends = [a, b] if form == "model" else [a.state_dict(), b.state_dict()]
    found = interpolate(twin(cnn(), RandomFeedback()), *ends, [batch], cross_entropy, points=3)
    for model, at in ((a, 0), (b, -1)):
        assert found.loss[at] == pytest.approx(float(cross_entropy(model(batch[0]), batch[1]).detach()))


def test_barrier_of_a_double_well() -> None:
    def double_well(output: torch.Tensor, targets: None) -> torch.Tensor:
        return (output[0, 0] ** 2 - 1) ** 2

    ends = [torch.tensor([-1.0]), torch.tensor([1.0])]
    found = interpolate(Quadratic(torch.zeros(1)), *ends, BATCHES, double_well, points=11)
    assert found.barrier == pytest.approx(1)
    assert found.loss[[0, -1]] == pytest.approx([0, 0])


def test_what_does_not_fit_is_refused() -> None:
    model, batches = mlp(), [labelled(4, 5)]
    with pytest.raises(ValueError, match="points must be at least 2"):
        interpolate(model, model, model, batches, cross_entropy, points=1)
    with pytest.raises(ValueError, match=r"parameter '0\.weight' has shape"):
        interpolate(model, model, mlp(width=9), batches, cross_entropy)
    with pytest.raises(ValueError, match="parameters, got a vector of shape"):
        surface(model, random_plane(cnn()), batches, cross_entropy)
