"""Angles and norm ratios of vectors, also where arccos fails."""

import math

import pytest
import torch

from alignonce.diagnostics import agreement


def test_known_angle_and_norm_ratio() -> None:
    found = agreement(torch.tensor([3.0, 0.0]), torch.tensor([1.0, 1.0]))
    assert found.cosine == pytest.approx(1 / math.sqrt(2))
    assert found.angle_deg == pytest.approx(45)
    assert found.norm_ratio == pytest.approx(3 / math.sqrt(2))


def test_equal_vectors_have_angle_exactly_zero_and_opposite_ones_180() -> None:
    vector = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert agreement(vector, vector.clone()).angle_deg == 0
    assert agreement(-vector, vector).angle_deg == 180


def test_angles_far_below_what_arccos_resolves_are_right() -> None:
    tiny = 1e-10
    found = agreement(torch.tensor([1.0, tiny], dtype=torch.float64), torch.tensor([1.0, 0.0]))
    assert found.angle_deg == pytest.approx(math.degrees(tiny), rel=1e-6)


def test_lists_of_tensors_count_as_one_vector() -> None:
    assert agreement([torch.ones(2), torch.ones(1, 2)], torch.ones(4)).angle_deg == 0


def test_zero_vectors_have_no_angle() -> None:
    assert math.isnan(agreement(torch.zeros(2), torch.ones(2)).angle_deg)
    assert agreement(torch.zeros(2), torch.ones(2)).norm_ratio == 0
    assert agreement(torch.ones(2), torch.zeros(2)).norm_ratio == math.inf


def test_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="different length: 2 and 3"):
        agreement(torch.ones(2), torch.ones(3))
