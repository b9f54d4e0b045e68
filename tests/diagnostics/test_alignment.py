"""Alignment of the weights themselves."""

import numpy as np
import pytest
import torch
from torch import nn

from alignonce import RandomFeedback, SoftAlignment, feedback_weights, set_learning_rule
from alignonce.diagnostics import alignment, weight_alignment
from helpers.known_models import mlp, twin


@pytest.mark.parametrize("cosine", [-1.0, 0.0, 0.5, 1.0])
def test_soft_alignment_has_the_chosen_cosine_angle_and_norm(cosine: float) -> None:
    found = weight_alignment(twin(mlp(), SoftAlignment(cosine)))
    assert list(found) == ["0", "2"]
    for row in found.values():
        assert row.cosine == pytest.approx(cosine, abs=1e-12)
        assert row.angle_deg == pytest.approx(np.degrees(np.arccos(cosine)), abs=1e-5)
        assert row.norm_ratio == pytest.approx(1)


def test_agrees_with_alignment_and_with_numpy() -> None:
    model = twin(mlp(), RandomFeedback())
    found, cosines = weight_alignment(model), alignment(model)
    for name, weight, feedback in feedback_weights(model):
        w, b = weight.detach().numpy().ravel(), feedback.numpy().ravel()
        assert found[name].cosine == pytest.approx(cosines[name], abs=1e-15)
        assert found[name].cosine == pytest.approx(w @ b / np.sqrt((w @ w) * (b @ b)))
        assert found[name].sign_agreement == np.mean(np.sign(w) == np.sign(b))


def test_norm_ratio_and_signs_of_a_hand_made_feedback_weight() -> None:
    layer = nn.Linear(2, 2, bias=False)
    set_learning_rule(layer, SoftAlignment(1.0))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 1.0], [-1.0, 1.0]]))
        layer.feedback.copy_(torch.tensor([[6.0, -2.0], [-2.0, 2.0]]))
    row = weight_alignment(layer)["weight"]
    assert row.norm_ratio == pytest.approx(2)
    assert row.sign_agreement == 0.75


def test_a_plain_model_has_no_alignment() -> None:
    assert weight_alignment(mlp()) == {}
