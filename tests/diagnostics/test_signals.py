"""Functional alignment against signals computed by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from alignonce import RandomFeedback, SoftAlignment, exact_gradients, feedback_weights, set_learning_rule
from alignonce.diagnostics import functional_alignment, weight_alignment
from helpers import references
from helpers.known_models import cnn, cross_entropy, half_squared_error, labelled, mlp, randn, seeded, twin


def angle(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel(), b.ravel()
    return math.degrees(math.acos(a @ b / math.sqrt((a @ a) * (b @ b))))


def test_two_linear_layers() -> None:
    model = twin(seeded(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))), RandomFeedback())
    x, y = randn(5, 4), randn(5, 3, seed=1)
    (w1, b1), (w2, b2) = ((w.detach().numpy(), b.numpy()) for _, w, b in feedback_weights(model))
    g2 = (model(x).detach() - y).numpy() / 5
    g1 = g2 @ b2  # the error that arrives at the first layer has come through B
    found = functional_alignment(model, (x, y), half_squared_error)
    assert found["1"].angle_deg == pytest.approx(angle(g2 @ b2, g2 @ w2))
    assert found["0"].angle_deg == pytest.approx(angle(g1 @ b1, g1 @ w1))
    ratio = np.linalg.norm(g1 @ b1) / np.linalg.norm(g1 @ w1)
    assert found["0"].norm_ratio == pytest.approx(ratio)
    with exact_gradients(model):
        exact = functional_alignment(model, (x, y), half_squared_error)
    assert exact["0"].angle_deg == pytest.approx(angle(g2 @ w2 @ b1, g2 @ w2 @ w1))


def test_learning_along_the_errors_lowers_it_while_the_weight_cosine_stays() -> None:
    model = twin(seeded(nn.Linear(200, 50)), SoftAlignment(1.0))
    error = randn(50) / randn(50).norm()
    push = torch.outer(error, randn(200, seed=1))
    with torch.no_grad():
        model.weight += push * (0.3 * model.weight.norm() / push.norm())
    found = functional_alignment(model, (randn(1, 200), error), lambda out, error: out[0] @ error)
    assert weight_alignment(model)["weight"].cosine > 0.95
    assert found["weight"].cosine < 0.6


@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions_send_errors_through_the_full_transposed_map(transposed: bool) -> None:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer = twin(seeded(kind(4, 6, 3, stride=2, padding=1, groups=2)), RandomFeedback())
    x = randn(2, 4, 5, 5)
    target = randn(*layer(x).shape, seed=1)
    weight, bias, feedback = (t.detach().numpy() for t in (layer.weight, layer.bias, layer.feedback))

    def send_back(matrix: np.ndarray) -> np.ndarray:
        settings = {"stride": [2, 2], "dilation": [1, 1], "groups": 2}
        settings |= {"padding": [1, 1]} if transposed else {"pads": [(1, 1), (1, 1)]}
        reference = references.conv_transpose if transposed else references.conv
        return reference(x.numpy(), weight, matrix, bias, target.numpy(), **settings).grad_inputs[0]

    found = functional_alignment(layer, (x, target), lambda out, target: (out * target).sum())
    assert found["weight"].angle_deg == pytest.approx(angle(send_back(feedback), send_back(weight)))


def test_bilinear_counts_both_inputs() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = nn.Bilinear(3, 4, 5)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.pair(a, input2=b)

    model = twin(seeded(Model()), RandomFeedback())
    a, b, g = randn(2, 3), randn(2, 4, seed=1), randn(2, 5, seed=2)

    def signals(m: np.ndarray) -> np.ndarray:
        to_a = np.einsum("no,oij,nj->ni", g, m, b)
        return np.concatenate([to_a.ravel(), np.einsum("no,oij,ni->nj", g, m, a).ravel()])

    found = functional_alignment(model, ((a, b), g), lambda out, g: (out * g).sum())
    weights = (model.pair.feedback.numpy(), model.pair.weight.detach().numpy())
    assert found["pair"].angle_deg == pytest.approx(angle(*map(signals, weights)))


def test_self_attention_adds_up_what_its_projections_send_to_their_common_input() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 1, batch_first=True, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    model = twin(seeded(Model()), RandomFeedback())
    x, g = randn(2, 3, 4), randn(2, 3, 4, seed=1)
    attention = model.attention
    packed = (x @ attention.in_proj_weight.T).detach().requires_grad_()
    q, k, v = packed.chunk(3, dim=-1)
    heads = torch.softmax(q @ k.transpose(1, 2) / 2, dim=-1) @ v
    errors = torch.autograd.grad(heads, packed, g @ attention.out_proj.feedback)[0].numpy()
    found = functional_alignment(model, (x, g), lambda out, g: (out * g).sum())
    assert set(found) == {"attention.in_proj_weight", "attention.out_proj"}
    b, w = attention.in_proj_feedback.numpy(), attention.in_proj_weight.detach().numpy()
    assert found["attention.in_proj_weight"].angle_deg == pytest.approx(angle(errors @ b, errors @ w))


def test_projections_with_keys_and_values_of_other_sizes_are_measured_one_by_one() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, kdim=3, vdim=3, batch_first=True)

        def forward(self, x: Tensor, memory: Tensor) -> Tensor:
            return self.attention(x, memory, memory)[0]

    model = seeded(Model())
    cosines = {"*q_proj_weight": 1.0, "*k_proj_weight": -1.0, "*v_proj_weight": 0.5, "*": 0.3}
    set_learning_rule(model, SoftAlignment(cosines))
    batch = ((randn(2, 3, 4), randn(2, 5, 3, seed=1)), randn(2, 3, 4, seed=2))
    found = functional_alignment(model, batch, half_squared_error)
    assert found["attention.q_proj_weight"].angle_deg == pytest.approx(0, abs=1e-6)
    assert found["attention.k_proj_weight"].angle_deg == pytest.approx(180, abs=1e-6)
    assert 5 < found["attention.v_proj_weight"].angle_deg < 175


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_is_measured_as_a_whole(kind: type[nn.Module]) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = kind(3, 4, num_layers=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)[0]

    batch = (randn(5, 2, 3), randn(5, 2, 4, seed=1))
    same = functional_alignment(twin(seeded(Model()), SoftAlignment(1.0)), batch, half_squared_error)
    assert same["layer"].angle_deg == pytest.approx(0, abs=1e-6)
    other = functional_alignment(twin(seeded(Model()), RandomFeedback()), batch, half_squared_error)
    assert list(other) == ["layer"]
    assert other["layer"].angle_deg > 10


def test_a_recurrent_cell_sends_errors_to_its_input_and_to_the_state_before() -> None:
    cell = twin(seeded(nn.RNNCell(3, 4)), RandomFeedback())
    x, h, g = randn(2, 3), randn(2, 4, seed=1), randn(2, 4, seed=2)
    inner = (g * (1 - cell(x, h).detach() ** 2)).numpy()
    through = [
        np.concatenate([(inner @ ih).ravel(), (inner @ hh).ravel()])
        for ih, hh in (
            (cell.feedback_ih.numpy(), cell.feedback_hh.numpy()),
            (cell.weight_ih.detach().numpy(), cell.weight_hh.detach().numpy()),
        )
    ]
    (found,) = functional_alignment(cell, ((x, h), g), lambda out, g: (out * g).sum()).values()
    assert found.angle_deg == pytest.approx(angle(*through))


def test_is_perfect_when_feedback_weights_are_the_forward_weights() -> None:
    found = functional_alignment(twin(cnn(), SoftAlignment(1.0)), labelled(4, 2, 6, 6), cross_entropy)
    assert list(found) == ["0", "3.conv", "4", "8"]
    for row in found.values():
        assert (row.angle_deg, row.norm_ratio) == pytest.approx((0, 1), abs=1e-9)


def test_a_shared_weight_counts_all_its_uses() -> None:
    model = seeded(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))
    model[1].weight = model[0].weight
    set_learning_rule(model, RandomFeedback())
    assert list(functional_alignment(model, (randn(2, 3), randn(2, 3)), half_squared_error)) == ["0"]


def test_a_model_without_feedback_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="no feedback weights"):
        functional_alignment(mlp(), labelled(2, 5), cross_entropy)
