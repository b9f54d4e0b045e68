"""Models, data and snapshots of the tests of robustness."""

import functools
import random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from alignonce import Backpropagation, LearningRule, RandomFeedback, set_learning_rule
from alignonce.layers import FeedbackLayer


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """All 1,797 8x8 digits as pixels in [0, 1], and their labels."""
    data = load_digits()
    return torch.tensor(data.images / 16, dtype=torch.float32)[:, None], torch.tensor(data.target)


def held_out(count: int) -> tuple[Tensor, Tensor]:
    """Digits that ``trained`` has not seen."""
    images, labels = digits()
    return images[1500 : 1500 + count], labels[1500 : 1500 + count]


@functools.cache
def trained(rule: LearningRule = Backpropagation()) -> nn.Sequential:  # noqa: B008
    """A small MLP that has learnt the digits by a rule; shared, so not to be changed."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
        )
    set_learning_rule(model, rule)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    images, labels = digits()
    for _ in range(12):
        for index in torch.randperm(1500, generator=generator).split(50):
            optimiser.zero_grad()
            F.cross_entropy(model(images[index]), labels[index]).backward()
            optimiser.step()
    return model.eval()


def busy_model(channels: int = 1) -> nn.Sequential:
    """An untrained CNN in the middle of training: gradients, statistics, a frozen part, dropout, feedback."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(256, 4),
    )  # fmt: skip
    set_learning_rule(model, RandomFeedback(seed=2))
    model(torch.rand(6, channels, 8, 8)).sum().backward()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    return model


def state_of(model: nn.Module) -> list[Any]:
    """Everything about a model that measuring must not change, in comparable form."""
    state: list[Any] = [(name, m.training) for name, m in model.named_modules()]
    state += [m.exact for m in model.modules() if isinstance(m, FeedbackLayer)]
    for parameter in model.parameters():
        grad = parameter.grad
        state += [parameter.requires_grad, id(grad), None if grad is None else grad.tolist()]
    state += [
        (name, id(t), t.device, t.dtype, t.tolist()) for name, t in model.state_dict(keep_vars=True).items()
    ]
    return state


def random_states() -> list[Any]:
    """The global random states of torch, NumPy and Python, in comparable form."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return [torch.get_rng_state().tolist(), name, keys.tolist(), rest, random.getstate()]


class Linear2(nn.Module):
    """Two classes: logits (-f/2, f/2) with f(x) = w.x + b, so that the nearest adversarial image is known."""

    def __init__(self, weight: Tensor, bias: float) -> None:
        super().__init__()
        self.flat = nn.Flatten()
        self.line = nn.Linear(weight.numel(), 2)
        with torch.no_grad():
            self.line.weight.copy_(torch.stack([-weight, weight]).flatten(1) / 2)
            self.line.bias.copy_(torch.tensor([-bias, bias]) / 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.line(self.flat(images))
