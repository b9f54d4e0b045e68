"""The rule's gradients against the exact ones, in closed form."""

import copy
from dataclasses import astuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from alignonce import RandomFeedback, SoftAlignment, feedback_weights, set_learning_rule
from alignonce.diagnostics import agreement, compare_gradients
from alignonce.direct import DirectFeedback
from helpers.known_models import cnn, cross_entropy, half_squared_error, labelled, mlp, randn, seeded, twin


def test_a_linear_network_in_closed_form() -> None:
    model = twin(
        seeded(nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 3, bias=False))), RandomFeedback()
    )
    x, y = randn(5, 4), randn(5, 3, seed=1)
    (w1, b1), (w2, b2) = ((w.detach().numpy(), b.numpy()) for _, w, b in feedback_weights(model))
    g = (x.numpy() @ w1.T @ w2.T - y.numpy()) / 5
    found = compare_gradients(model, (x, y), half_squared_error)

    def check(row, rule: np.ndarray, exact: np.ndarray) -> None:
        cosine = (rule * exact).sum() / np.linalg.norm(rule) / np.linalg.norm(exact)
        assert row.angle_deg == pytest.approx(np.degrees(np.arccos(np.clip(cosine, -1, 1))), abs=1e-5)
        assert row.norm_ratio == pytest.approx(np.linalg.norm(rule) / np.linalg.norm(exact))

    dw2 = g.T @ (x.numpy() @ w1.T)
    rule1, exact1 = b2.T @ g.T @ x.numpy(), w2.T @ g.T @ x.numpy()
    check(found.weight["1"], dw2, dw2)
    check(found.weight["0"], rule1, exact1)
    check(found.input["1"], g @ b2, g @ w2)
    check(found.input["0"], g @ b2 @ b1, g @ w2 @ w1)
    check(found.total, np.append(rule1, dw2), np.append(exact1, dw2))


@pytest.mark.parametrize("rule", [None, SoftAlignment(1.0)], ids=["plain", "copy"])
def test_is_perfect_for_backpropagation_and_for_a_copy_at_initialisation(rule: SoftAlignment | None) -> None:
    model = cnn() if rule is None else twin(cnn(), rule)
    found = compare_gradients(model, labelled(4, 2, 6, 6), cross_entropy)
    assert list(found.weight) == list(found.input) == ["0", "3.conv", "4", "8"]
    for row in [*found.weight.values(), *found.input.values(), found.total]:
        assert (row.angle_deg, row.norm_ratio) == pytest.approx((0, 1), abs=1e-6)


def test_random_feedback_is_nearly_orthogonal_in_a_wide_layer() -> None:
    model = twin(
        seeded(nn.Sequential(nn.Linear(100, 1000), nn.ReLU(), nn.Linear(1000, 1000))), RandomFeedback()
    )
    found = compare_gradients(model, (randn(4, 100), randn(4, 1000, seed=1)), half_squared_error)
    assert found.input["2"].angle_deg == pytest.approx(90, abs=3)
    assert found.weight["2"].angle_deg == 0  # the last layer's gradient needs no feedback


def test_a_layers_dx_is_its_own_share_where_a_shortcut_reads_the_same_input() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(20, 20)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.layer(x)

    model = twin(seeded(Residual()), RandomFeedback())
    x, y = randn(3, 20), randn(3, 20, seed=1)
    g = (model(x).detach() - y) / 3
    found = compare_gradients(model, (x, y), half_squared_error)
    expected = agreement(g @ model.layer.feedback, g @ model.layer.weight)
    # Sums over rows in another order differ in their last bits.
    assert astuple(found.input["layer"]) == pytest.approx(astuple(expected), rel=1e-12)


def test_trained_weights_leave_their_feedback_behind() -> None:
    model = twin(mlp(), SoftAlignment(1.0))
    with torch.no_grad():
        model[2].weight.neg_()
    found = compare_gradients(model, labelled(6, 5), cross_entropy)
    assert found.input["2"].angle_deg == pytest.approx(180, abs=1e-6)
    assert found.weight["0"].angle_deg == pytest.approx(180, abs=1e-6)


def test_agrees_with_the_gradients_that_backward_gives() -> None:
    plain = mlp()
    model, batch = twin(plain, RandomFeedback()), labelled(6, 5)
    found = compare_gradients(model, batch, cross_entropy)
    gradients = []
    for m in (copy.deepcopy(model), plain):
        cross_entropy(m(batch[0]), batch[1]).backward()
        gradients.append([p.grad for p in m.parameters()])
    assert found.total == agreement(*gradients)


def test_frozen_weights_and_unused_layers_do_not_appear() -> None:
    model = twin(mlp(), RandomFeedback())
    model.unused = nn.Linear(2, 2)
    model[0].weight.requires_grad_(False)
    found = compare_gradients(nn.Sequential(*model[:3]), labelled(3, 5), cross_entropy)
    assert list(found.weight) == ["2"]
    assert list(found.input) == ["0", "2"]


def test_transformer_layers_are_measured() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    model = twin(seeded(layer), SoftAlignment(1.0))
    found = compare_gradients(model, (randn(2, 3, 8), randn(2, 3, 8, seed=1)), half_squared_error)
    assert set(found.weight) == {"self_attn.in_proj_weight", "self_attn.out_proj", "linear1", "linear2"}
    assert found.total.angle_deg == pytest.approx(0, abs=1e-6)
    assert "self_attn" in found.input


def test_direct_feedback_is_measured_where_it_arrives() -> None:
    plain = seeded(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)))
    x, y = randn(5, 4), randn(5, 3, seed=1)
    model = copy.deepcopy(plain)
    set_learning_rule(model, DirectFeedback(), inputs=x)
    e = (plain(x).detach() - y) / 5
    found = compare_gradients(model, (x, y), half_squared_error)
    direct = model[2].direct_feedback
    assert found.input["2"].angle_deg == pytest.approx(agreement(e @ direct, e @ plain[2].weight).angle_deg)
    assert found.weight["2"].angle_deg == 0
    slope = 1 - torch.tanh(plain[0](x).detach()) ** 2
    rule, exact = ((e @ m * slope).T @ x for m in (direct, plain[2].weight.detach()))
    assert found.weight["0"].angle_deg == pytest.approx(agreement(rule, exact).angle_deg)
