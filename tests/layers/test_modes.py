"""What is kept of past contexts of exact gradients: little, and nothing in copies."""

import copy
import pickle

import torch
from torch import nn

from alignonce import Backpropagation, SoftAlignment, exact_gradients, set_learning_rule
from alignonce.layers import FeedbackLayer
from alignonce.layers.modes import MODE_ATTRIBUTES


def model() -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    set_learning_rule(layers, SoftAlignment(0.5))
    return layers


def spans(module: nn.Module) -> list[tuple]:
    return [layer.spans for layer in module.modules() if isinstance(layer, FeedbackLayer)]


def test_layers_that_are_switched_together_share_what_is_kept() -> None:
    layers, x = model(), torch.randn(3, 4)
    for _ in range(3):
        with exact_gradients(layers):
            layers(x)
    first, second = spans(layers)
    assert first == second
    assert len(first) == 1
    with exact_gradients(layers[0]):
        layers(x)
    assert [len(s) for s in spans(layers)] == [2, 1]


def test_contexts_one_after_the_other_or_without_a_pass_take_no_more_memory() -> None:
    layers, x = model(), torch.randn(3, 4)
    for _ in range(10):
        with exact_gradients(layers), exact_gradients(layers):
            layers(x)
    ((kept,), _) = spans(layers)
    assert len(kept.ends) == 2
    layers(x)
    for _ in range(10):
        with exact_gradients(layers):
            pass
    assert len(kept.ends) == 2


def test_copies_keep_the_mode_but_nothing_of_past_contexts() -> None:
    layers = model()
    with exact_gradients(layers):
        layers(torch.randn(3, 4))
    for twin in (copy.deepcopy(layers), copy.copy(layers[0]), pickle.loads(pickle.dumps(layers))):
        assert all(kept == () for kept in spans(twin))


def test_a_plain_layer_again_keeps_nothing() -> None:
    layers = model()
    with exact_gradients(layers):
        layers(torch.randn(3, 4))
    set_learning_rule(layers, Backpropagation())
    assert not set(MODE_ATTRIBUTES) & vars(layers[0]).keys()
