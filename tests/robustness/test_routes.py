"""Gradients of the input by the two routes."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from alignonce import DirectFeedback, RandomFeedback, set_learning_rule
from alignonce.layers import FeedbackLinear
from alignonce.robustness import ROUTES, input_gradients
from helpers.robust_models import Linear2, busy_model, held_out, random_states, state_of, trained


def by_hand(weights: list[torch.Tensor], images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The chain rule of the trained MLP written out, with ``weights`` on the way back."""
    layers = [m for m in trained(RandomFeedback(seed=1)) if isinstance(m, FeedbackLinear)]
    x, active = images.flatten(1).double(), []
    for layer in layers[:2]:
        x = x @ layer.weight.double().T + layer.bias.double()
        active.append(x > 0)
        x = x.relu()
    logits = x @ layers[2].weight.double().T + layers[2].bias.double()
    g = logits.softmax(1) - F.one_hot(labels, 10)
    g = (g @ weights[2].double()) * active[1]
    g = (g @ weights[1].double()) * active[0]
    return (g @ weights[0].double()).view_as(images)


def test_each_route_is_the_chain_rule_with_its_own_weights() -> None:
    model, (images, labels) = trained(RandomFeedback(seed=1)), held_out(40)
    layers = [m for m in model if isinstance(m, FeedbackLinear)]
    for route, weights in (
        ("exact", [m.weight.detach() for m in layers]),
        ("feedback", [m.feedback for m in layers]),
    ):
        gradients = input_gradients(model, images, labels, route=route, batch_size=7)
        expected = by_hand(weights, images, labels).detach()
        assert float((gradients - expected).norm() / expected.norm()) < 1e-5


def test_the_routes_differ_with_random_feedback_and_agree_in_a_plain_model() -> None:
    images, labels = held_out(40)
    exact, feedback = (
        input_gradients(trained(RandomFeedback(seed=1)), images, labels, route=r) for r in ROUTES
    )
    assert float(F.cosine_similarity(exact.flatten(1), feedback.flatten(1)).mean()) < 0.7
    exact, feedback = (input_gradients(trained(), images, labels, route=r) for r in ROUTES)
    assert torch.equal(exact, feedback)


@pytest.mark.parametrize("route", ROUTES)
def test_nothing_is_left_changed(route: str) -> None:
    model, images = busy_model(), torch.rand(5, 1, 8, 8)
    before = state_of(model), random_states()
    with torch.no_grad():
        input_gradients(model, images, torch.arange(5) % 4, route=route)
    assert (state_of(model), random_states()) == before
    assert not images.requires_grad


def test_bad_input_is_refused() -> None:
    model, images = Linear2(torch.ones(1, 4, 4), 0.0), torch.rand(2, 1, 4, 4)
    with pytest.raises(ValueError, match="unknown route 'back'; there are exact, feedback"):
        input_gradients(model, images, torch.tensor([0, 1]), route="back")
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.1"):
        input_gradients(model, images, torch.tensor([0, 2]))


def test_direct_feedback_has_two_routes_as_well() -> None:
    images, labels = held_out(20)
    model = copy.deepcopy(trained())
    set_learning_rule(model, DirectFeedback(), inputs=images)
    exact, feedback = (input_gradients(model, images, labels, route=route) for route in ROUTES)
    assert torch.equal(exact, input_gradients(trained(), images, labels))
    assert float(F.cosine_similarity(exact.flatten(1), feedback.flatten(1)).mean()) < 0.7


def test_a_route_that_ends_before_the_pixels_gives_zero() -> None:
    class Cut(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.detach()

    images, labels = held_out(5)
    assert not input_gradients(nn.Sequential(Cut(), trained()), images, labels).any()
