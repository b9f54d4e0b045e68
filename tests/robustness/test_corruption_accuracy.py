"""Accuracy under corruptions and its ratios, against hand-made reports and a model of known answers."""

import math

import pytest
import torch
from torch import Tensor, nn

from alignonce.robustness import (
    CorruptedImages,
    CorruptionReport,
    CorruptionRow,
    corrupted_set_accuracy,
    corruption_accuracy,
)
from helpers.robust_models import busy_model, held_out, random_states, state_of, trained


class Threshold(nn.Module):
    """Class 1 if the first pixel is above one half."""

    def forward(self, images: Tensor) -> Tensor:
        first = images[:, 0, 0, 0]
        return torch.stack([0.5 - first, first - 0.5], dim=1)


def report(clean: float, **accuracies: tuple[float, ...]) -> CorruptionReport:
    rows = [CorruptionRow(n, s, a) for n, values in accuracies.items() for s, a in enumerate(values, 1)]
    return CorruptionReport(clean, tuple(rows))


def test_accuracy_of_a_known_model_under_a_known_corruption() -> None:
    images = torch.zeros(4, 1, 8, 8)
    images[:, 0, 0, 0] = torch.tensor([0.05, 0.25, 0.35, 0.45])  # brightness takes them over 0.5 in turn
    result = corruption_accuracy(
        Threshold(), images, torch.zeros(4, dtype=torch.long), corruptions=["brightness"]
    )
    assert result.clean_accuracy == 1
    assert [row.accuracy for row in result.rows] == [0.75, 0.5, 0.25, 0.25, 0.0]
    assert result.mean_accuracy == pytest.approx(0.35)


def test_corruption_error_ratios_are_those_of_the_paper() -> None:
    ours, theirs = report(0.9, a=(0.8, 0.6), b=(0.5, 0.5)), report(0.8, a=(0.6, 0.4), b=(0.75, 0.25))
    ratios = ours.relative_to(theirs)
    assert ratios.by_corruption["a"] == pytest.approx((0.6 / 1.0, 0.4 / 0.6))
    assert ratios.by_corruption["b"] == pytest.approx((1.0, 0.8 / 0.6))
    assert ratios.mce == pytest.approx(0.8)
    assert ratios.relative_mce == pytest.approx(1.0)
    assert ours.relative_to(ours).mce == 1


def test_ratios_to_a_reference_without_errors_are_nan() -> None:
    ratios = report(0.9, a=(0.8,)).relative_to(report(1.0, a=(1.0,)))
    assert math.isnan(ratios.mce)
    assert math.isnan(ratios.relative_mce)


def test_reports_on_different_corruptions_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="same corruptions and severities"):
        report(1.0, a=(0.5,)).relative_to(report(1.0, a=(0.5, 0.4)))


def test_a_trained_model_loses_more_at_higher_severity() -> None:
    images, labels = held_out(200)
    result = corruption_accuracy(trained(), images, labels, corruptions=["gaussian_noise", "rotation"])
    by_row = {(row.corruption, row.severity): row.accuracy for row in result.rows}
    for name in ("gaussian_noise", "rotation"):
        assert result.clean_accuracy >= by_row[name, 1] > by_row[name, 5] + 0.1
    assert str(result).splitlines()[0].split() == ["corruption", "1", "2", "3", "4", "5", "mean"]


def test_the_model_and_global_random_states_are_left_as_they_were() -> None:
    model = busy_model()
    before = state_of(model), random_states()
    corruption_accuracy(model, torch.rand(5, 1, 8, 8, generator=torch.Generator()), torch.arange(5) % 4)
    assert (state_of(model), random_states()) == before


def test_corrupted_sets_are_measured_one_by_one() -> None:
    sets = [CorruptedImages("made", s, torch.full((2, 1, 8, 8), s / 5), torch.ones(2).long()) for s in (1, 4)]
    result = corrupted_set_accuracy(Threshold(), iter(sets), sets[1].images, sets[1].labels)
    assert result == CorruptionReport(1.0, (CorruptionRow("made", 1, 0.0), CorruptionRow("made", 4, 1.0)))


def test_bad_input_is_refused() -> None:
    images, labels = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 0])
    with pytest.raises(ValueError, match="unknown corruption 'snow'"):
        corruption_accuracy(Threshold(), images, labels, corruptions=["snow"])
    with pytest.raises(ValueError, match="unknown severity 7"):
        corruption_accuracy(Threshold(), images, labels, severities=[7])
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.1, as the model's outputs"):
        corruption_accuracy(Threshold(), images, labels + 1)
    with pytest.raises(ValueError, match="labels must be 0 or more"):
        corruption_accuracy(Threshold(), images, labels - 1)
    with pytest.raises(ValueError, match=r"labels must have shape \(3,\)"):
        corruption_accuracy(Threshold(), images, labels[:2])
    with pytest.raises(ValueError, match="whole numbers"):
        corruption_accuracy(Threshold(), images, labels.float())
    with pytest.raises(ValueError, match="at least one corruption"):
        corruption_accuracy(Threshold(), images, labels, corruptions=[])
    with pytest.raises(ValueError, match="the model must return logits"):
        corruption_accuracy(nn.Identity(), images, labels)
    with pytest.raises(ValueError, match="batch_size must be 1 or more"):
        corruption_accuracy(Threshold(), images, labels, batch_size=0)
