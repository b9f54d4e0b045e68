"""Pretraining on noise turns forward weights towards fixed feedback weights."""

import pytest
import torch
from torch import nn

from alignonce import RandomFeedback, WeightMirror, alignment, pretrain_on_noise, set_learning_rule


def mlp() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    generator = torch.Generator().manual_seed(0)
    for layer in model[::2]:
        nn.init.kaiming_normal_(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
    return model


def test_the_output_layers_forward_weight_turns_towards_its_fixed_feedback_weight() -> None:
    model = mlp()
    set_learning_rule(model, RandomFeedback())
    feedback = [layer.feedback.clone() for layer in model[::2]]
    before = alignment(model)
    random = torch.get_rng_state()
    pretrain_on_noise(
        model, torch.optim.Adam(model.parameters(), lr=1e-3), (16,), 4, steps=400, batch_size=64
    )
    after = alignment(model)
    assert after["4"] > before["4"] + 0.1
    assert all(torch.equal(layer.feedback, b) for layer, b in zip(model[::2], feedback, strict=True))
    assert torch.equal(torch.get_rng_state(), random)


def test_the_same_seed_gives_the_same_weights_under_any_rule() -> None:
    weights = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        model = mlp()
        set_learning_rule(model, WeightMirror(every=2))
        seen: list[int] = []
        pretrain_on_noise(
            model, torch.optim.SGD(model.parameters(), lr=0.1), (16,), 4, steps=5, batch_size=8,
            on_step=lambda step, loss, seen=seen: seen.append(step),
        )  # fmt: skip
        assert seen == [1, 2, 3, 4, 5]
        weights.append(model[2].weight.detach())
    assert torch.equal(*weights)


def test_bad_input_and_divergence_get_one_clear_error() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e30)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        pretrain_on_noise(model, optimizer, (16,), 4, steps=0)
    with pytest.raises(ValueError, match=r"the loss became .* by step 50"):
        pretrain_on_noise(model, optimizer, (16,), 4, steps=60)
