"""LSTMs by PyTorch's fused kernels, given B: the gradients of time steps taken one by one, in float64."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from alignonce import (
    LowRank,
    SoftAlignment,
    Sparse,
    exact_gradients,
    feedback_weights,
    set_learning_rule,
)
from alignonce.formats import Dense, FeedbackFormat
from alignonce.layers import fused_lstm

pytestmark = pytest.mark.skipif(
    not fused_lstm.fits([torch.ones(1)]), reason="PyTorch has no fused LSTM kernels here"
)
SOFT = SoftAlignment(cosine=0.3)


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def loss(result: Any) -> Tensor:
    output, (hidden, cell) = result
    return output.sin().sum() + (1.3 * hidden).cos().sum() + cell.sin().sum()


def kernels(run: Callable[[], Any]) -> set[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("format", [Dense(), LowRank(rank=2), Sparse(0.5)], ids=str)
@pytest.mark.parametrize("given_state", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_layers": 2, "bidirectional": True},
        {"batch_first": True, "bidirectional": True},
        {"bias": False, "num_layers": 3},
    ],
    ids=str,
)
def test_all_gradients_are_those_of_single_time_steps_in_float64(
    settings: dict[str, Any], given_state: bool, format: FeedbackFormat
) -> None:
    layer = nn.LSTM(6, 5, **settings)
    set_learning_rule(layer, SOFT, format=format)
    twin = copy.deepcopy(layer).double()  # in float64 there is no fused kernel
    x = torch.randn(4, 7, 6)
    directions = layer.num_layers * (2 if layer.bidirectional else 1)
    batch = 4 if layer.batch_first else 7
    state = [torch.randn(directions, batch, 5) for _ in range(2)] if given_state else []
    found = []
    for module, dtype in ((layer, torch.float32), (twin, torch.float64)):
        leaves = [t.to(dtype).requires_grad_() for t in (x, *state)]
        value = loss(module(leaves[0], tuple(leaves[1:]) if state else None))
        found.append(torch.autograd.grad(value, [*leaves, *module.parameters()]))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-5)


def test_the_fused_kernels_are_at_work_in_both_passes_and_not_for_packed_sequences() -> None:
    layer = nn.LSTM(6, 5)
    set_learning_rule(layer, SOFT)
    x = torch.randn(4, 7, 6, requires_grad=True)
    used = kernels(lambda: loss(layer(x)).backward())
    assert {"aten::mkldnn_rnn_layer", "aten::mkldnn_rnn_layer_backward"} <= used
    packed = pack_padded_sequence(x, [4, 4, 3, 3, 2, 1, 1])
    assert "aten::mkldnn_rnn_layer_backward" not in kernels(lambda: layer(packed)[0].data.sum().backward())


def test_dropout_between_layers_draws_as_the_plain_layer_does() -> None:
    layer = nn.LSTM(6, 5, num_layers=3, dropout=0.5)
    set_learning_rule(layer, SoftAlignment(cosine=1.0))
    x = torch.randn(4, 7, 6)
    found = []
    for run in range(2):
        torch.manual_seed(1)
        if run:
            with exact_gradients(layer):
                value = loss(layer(x))
        else:
            value = loss(layer(x))
        found.append(torch.autograd.grad(value, list(layer.parameters())))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_second_derivatives_are_those_of_single_time_steps() -> None:
    layer = nn.LSTM(6, 5, bidirectional=True)
    set_learning_rule(layer, SOFT)
    twin = copy.deepcopy(layer).double()
    x = torch.randn(4, 7, 6)
    found = []
    for module, dtype in ((layer, torch.float32), (twin, torch.float64)):
        leaf = x.to(dtype).requires_grad_()
        value = loss(module(leaf))
        sources = [leaf, *module.parameters()]
        first = torch.autograd.grad(value, sources, create_graph=True)
        penalty = sum((g**2).sum() for g in first)
        found.append([*first, *torch.autograd.grad(penalty, sources)])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=1e-3, atol=1e-4)


def test_a_weight_changed_in_place_harms_the_first_derivative_not_and_the_second_is_refused() -> None:
    layer = nn.LSTM(6, 5)
    set_learning_rule(layer, SOFT)
    x = torch.randn(4, 7, 6, requires_grad=True)
    expected = torch.autograd.grad(loss(layer(x)), x)[0]
    value = loss(layer(x))
    with torch.no_grad():
        layer.weight_hh_l0.zero_()
    torch.testing.assert_close(torch.autograd.grad(value, x, retain_graph=True)[0], expected)
    with pytest.raises(RuntimeError, match="changed in place between its forward pass and a backward pass"):
        torch.autograd.grad(value, x, create_graph=True)


def test_frozen_weights_and_inputs_get_no_gradient() -> None:
    layer = nn.LSTM(6, 5)
    set_learning_rule(layer, SOFT)
    layer.weight_ih_l0.requires_grad_(False)
    loss(layer(torch.randn(4, 7, 6))).backward()
    assert layer.weight_ih_l0.grad is None
    assert layer.weight_hh_l0.grad is not None
    assert all(b.grad is None for _, _, b in feedback_weights(layer))
