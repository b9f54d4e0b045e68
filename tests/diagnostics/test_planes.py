"""Planes through weight space."""

import numpy as np
import pytest
import torch

from alignonce.diagnostics import random_plane, trajectory_plane
from helpers.known_models import Quadratic, cnn, mlp, randn


def test_random_directions_have_the_norm_of_each_filter_and_leave_biases_and_norms() -> None:
    model = cnn()
    plane = random_plane(model, seed=3)
    sizes = [p.numel() for p in model.parameters()]
    for direction in (plane.x_direction, plane.y_direction):
        for parameter, part in zip(model.parameters(), direction.split(sizes), strict=True):
            d = part.reshape(parameter.shape)
            if parameter.dim() > 1:
                torch.testing.assert_close(
                    d.flatten(1).norm(dim=1), parameter.flatten(1).norm(dim=1).detach()
                )
            else:
                assert not d.any()
    torch.testing.assert_close(
        plane.at(0, 0), torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    )


def test_random_planes_depend_on_their_seed_only() -> None:
    a, b, c = (random_plane(mlp(), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(a.x_direction, b.x_direction)
    assert not torch.equal(a.x_direction, c.x_direction)
    assert not torch.equal(a.x_direction, a.y_direction)


def test_projection_finds_the_coordinates_of_points_on_a_plane_with_oblique_directions() -> None:
    plane = random_plane(mlp())
    points = torch.stack([plane.at(0.3, -2.0), plane.at(1.5, 0.25)])
    np.testing.assert_allclose(plane.project(points), [[0.3, -2.0], [1.5, 0.25]])


def test_principal_components_recover_a_planar_trajectory() -> None:
    model = Quadratic(randn(50))
    basis = torch.linalg.qr(randn(50, 2, seed=1)).Q.T
    t = np.linspace(0, 5, 20)
    coordinates = np.stack([3 * np.cos(t), np.sin(t)], axis=1)
    points = randn(50, seed=2) + torch.from_numpy(coordinates) @ basis
    plane = trajectory_plane(model, {"one": list(points[:12]), "other": list(points[12:])})
    assert sum(plane.explained) == pytest.approx(1)
    assert plane.explained[0] > plane.explained[1]
    path = np.concatenate([plane.paths["one"], plane.paths["other"]])
    for point, (x, y) in zip(points, path, strict=True):
        torch.testing.assert_close(plane.at(x, y), point)
    # Distances are kept: the axes are orthonormal.
    gaps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    np.testing.assert_allclose(gaps, np.linalg.norm(np.diff(coordinates, axis=0), axis=1))
    x0, x1, y0, y1 = plane.extent
    assert x0 < path[:, 0].min() < path[:, 0].max() < x1
    assert y0 < path[:, 1].min() < path[:, 1].max() < y1


def test_a_trajectory_can_be_state_dicts() -> None:
    model = mlp()
    states = []
    for seed in range(4):
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += randn(*parameter.shape, seed=seed)
    plane = trajectory_plane(model, {"run": states})
    assert plane.paths["run"].shape == (4, 2)


def test_points_that_span_no_plane_are_refused() -> None:
    model, w = Quadratic(randn(5)), randn(5)
    with pytest.raises(ValueError, match="at least three points"):
        trajectory_plane(model, {"run": [w, 2 * w]})
    with pytest.raises(ValueError, match="on one line"):
        trajectory_plane(model, {"run": [w, 2 * w, 4 * w]})
    with pytest.raises(ValueError, match="NaN"):
        trajectory_plane(model, {"run": [w, w * torch.nan, randn(5, seed=1)]})
    with pytest.raises(ValueError, match=r"5 parameters, got a vector of shape \(4,\)"):
        trajectory_plane(model, {"run": [randn(4)] * 3})
    with pytest.raises(ValueError, match="no parameter 'w'"):
        trajectory_plane(model, {"run": [{}] * 3})
    with pytest.raises(ValueError, match="no weights of two dimensions"):
        random_plane(model)
