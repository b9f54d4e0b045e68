"""Effective ranks and subspaces of known matrices."""

import numpy as np
import pytest
import torch
from torch import nn

from alignonce import RandomFeedback, SoftAlignment
from alignonce.diagnostics import effective_rank, effective_ranks, principal_angles, subspace_alignment
from helpers.known_models import cross_entropy, generator, labelled, mlp, randn, seeded, twin


def test_effective_rank_of_known_matrices() -> None:
    assert effective_rank(torch.outer(randn(5), randn(4, seed=1))) == pytest.approx(1, abs=1e-10)
    assert effective_rank(torch.eye(6)[:, :4]) == pytest.approx(4)
    # Shares 3/4 and 1/4: exp of their entropy.
    expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(expected)
    assert effective_rank(torch.zeros(3, 3)) == 0


def test_effective_rank_does_not_depend_on_scale() -> None:
    matrix = randn(6, 4)
    assert effective_rank(1e-3 * matrix) == pytest.approx(effective_rank(matrix))


def test_the_gradient_of_one_sample_has_rank_one() -> None:
    ranks = effective_ranks(mlp(), labelled(1, 5), cross_entropy)
    for row in ranks.values():
        assert row.gradient == pytest.approx(1, abs=1e-6)
        assert row.feedback is None
        assert row.weight > 1.5


def test_kernels_are_matrices_of_out_and_rest() -> None:
    model = twin(seeded(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ConvTranspose2d(4, 3, 3))), SoftAlignment(1.0))
    ranks = effective_ranks(model)
    for name, matrix in {
        "0": model[0].weight.flatten(1),
        "1": model[1].weight.transpose(0, 1).flatten(1),
    }.items():
        values = np.linalg.svd(matrix.detach().numpy(), compute_uv=False)
        share = values / values.sum()
        assert ranks[name].weight == pytest.approx(np.exp(-(share * np.log(share)).sum()))
        assert ranks[name].feedback == pytest.approx(ranks[name].weight)
        assert ranks[name].gradient is None


def test_principal_angles_of_rotated_planes() -> None:
    angles = np.radians([1e-7, 30.0])
    a, b = torch.zeros(5, 2, dtype=torch.float64), torch.zeros(5, 2, dtype=torch.float64)
    a[0, 0] = a[1, 1] = 1
    b[0, 0], b[2, 0] = np.cos(angles[0]), np.sin(angles[0])
    b[1, 1], b[3, 1] = np.cos(angles[1]), np.sin(angles[1])
    turn = torch.linalg.qr(torch.randn(2, 2, generator=generator(), dtype=torch.float64)).Q
    found = principal_angles(a, b @ turn)
    np.testing.assert_allclose(found, [1e-7, 30], rtol=1e-6)


def test_aligned_weights_share_their_subspaces_and_random_ones_do_not() -> None:
    wide = seeded(nn.Linear(300, 200))
    same = subspace_alignment(twin(wide, SoftAlignment(1.0)), k=3)["weight"]
    np.testing.assert_allclose(same.left + same.right, 0, atol=1e-5)
    random = subspace_alignment(twin(wide, RandomFeedback()), k=3)["weight"]
    assert min(random.left + random.right) > 60


def test_k_is_cut_to_the_matrix_and_must_be_positive() -> None:
    model = twin(mlp(), RandomFeedback())
    assert len(subspace_alignment(model, k=100)["2"].left) == 3
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        subspace_alignment(model, k=0)


def test_bad_matrices_are_refused() -> None:
    with pytest.raises(ValueError, match="two dimensions"):
        effective_rank(torch.ones(3))
    with pytest.raises(ValueError, match="NaN"):
        effective_rank(torch.full((2, 2), torch.nan))
    with pytest.raises(ValueError, match="together"):
        effective_ranks(mlp(), labelled(2, 5))
