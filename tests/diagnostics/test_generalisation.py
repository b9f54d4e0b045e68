"""Calibration and detection of hand-made predictions."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from alignonce.diagnostics import auroc, expected_calibration_error, generalisation
from helpers.known_models import cross_entropy, half_squared_error, labelled, mlp, randn, seeded


def test_calibration_error_of_hand_made_predictions() -> None:
    # Two bins hold samples: confidence 0.9, of which 1 in 2 is right; confidence 0.6, of which 2 in 2 are.
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    labels = torch.tensor([0, 1, 0, 1])
    assert expected_calibration_error(probabilities, labels) == pytest.approx((2 * 0.4 + 2 * 0.4) / 4)
    # In one bin, 3 in 4 are right at a mean confidence of 0.75.
    assert expected_calibration_error(probabilities, labels, bins=1) == pytest.approx(0, abs=1e-7)


def test_calibration_error_agrees_with_guos_definition() -> None:
    probabilities = torch.softmax(2 * randn(500, 4), dim=1)
    labels = torch.randint(4, (500,), generator=torch.Generator().manual_seed(0))
    p, y = probabilities.numpy(), labels.numpy()
    confidence, correct = p.max(1), p.argmax(1) == y
    expected = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected)


def test_sure_and_right_is_calibrated_and_sure_and_wrong_is_not() -> None:
    sure = torch.eye(3)
    assert expected_calibration_error(sure, torch.tensor([0, 1, 2])) == 0
    assert expected_calibration_error(sure, torch.tensor([1, 2, 0])) == 1


def test_auroc_counts_pairs_with_ties_as_half() -> None:
    positive, negative = torch.tensor([3.0, 2.0, 2.0]), torch.tensor([1.0, 2.0, 4.0])
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert auroc(positive, negative) == pytest.approx(float(sum(pairs)) / 9)
    assert auroc(positive + 10, negative) == 1
    assert auroc(positive, negative + 10) == 0
    assert auroc(torch.ones(4), torch.ones(3)) == 0.5


def test_a_classifier_that_knows_its_classes_and_doubts_the_rest() -> None:
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(10 * torch.eye(2))
    x, y = torch.eye(2), torch.tensor([0, 1])
    found = generalisation(
        model, [(x, y)], [(x, y), (x[:1], torch.tensor([1]))], cross_entropy, ood=[(torch.zeros(3, 2), None)]
    )
    right, wrong = math.log1p(math.exp(-10)), 10 + math.log1p(math.exp(-10))
    assert found.train_accuracy == 1
    assert found.accuracy_gap == pytest.approx(1 / 3)
    assert found.loss_gap == pytest.approx((2 * right + wrong) / 3 - right, rel=1e-5)
    assert found.calibration_error == pytest.approx(1 / (1 + math.exp(-10)) - 2 / 3, rel=1e-5)
    assert found.ood_auroc == 1


def test_regression_has_losses_only() -> None:
    model, x = seeded(nn.Linear(3, 2)), randn(4, 3)
    found = generalisation(model, [(x, model(x).detach())], [(x, randn(4, 2))], half_squared_error)
    assert found.train_loss == 0
    assert found.loss_gap > 0
    assert np.isnan([found.test_accuracy, found.calibration_error, found.ood_auroc]).all()


def test_sequence_models_are_measured_position_by_position() -> None:
    model = seeded(nn.Linear(3, 4))
    x = randn(2, 5, 3)
    y = model(x).argmax(-1)
    y[0, 0] = -100  # ignored, as by the loss

    def loss(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy(output.flatten(0, 1), targets.flatten())

    assert generalisation(model, [(x, y)], [(x, y)], loss).test_accuracy == 1


def test_bad_input_is_refused() -> None:
    model, batches = mlp(), [labelled(4, 5)]
    with pytest.raises(ValueError, match="sum to 1"):
        expected_calibration_error(randn(3, 2), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="n > 0"):
        expected_calibration_error(torch.ones(0, 2), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="both kinds"):
        auroc(torch.ones(2), torch.ones(0))
    with pytest.raises(ValueError, match="bins must be at least 1"):
        generalisation(model, batches, batches, cross_entropy, bins=0)
    with pytest.raises(ValueError, match="loss on the test data is nan"):
        generalisation(model, batches, [(randn(4, 5) * torch.nan, batches[0][1])], cross_entropy)
    with pytest.raises(ValueError, match=r"\(n, classes\) logits"):
        generalisation(
            seeded(nn.Linear(3, 2)),
            [(randn(2, 4, 3), randn(2, 4, 2))],
            [(randn(2, 4, 3), randn(2, 4, 2))],
            half_squared_error,
            ood=[(randn(2, 4, 3), None)],
        )
