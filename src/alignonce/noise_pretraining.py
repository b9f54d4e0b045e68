"""Pretraining on random noise, which aligns forward weights with fixed feedback weights before any data."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignonce.evolution import evolve
from alignonce.rules.base import generator_for, whole_number

__all__ = ["pretrain_on_noise"]


def pretrain_on_noise(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    steps: int = 1000,
    batch_size: int = 128,
    seed: int = 0,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Train a model on random inputs with random labels, drawn anew at each step, before it sees data.

    There is nothing to learn but that forward weights turn towards the fixed feedback weights, above all in
    the layers next to the output. The model's learning rule is used as it is, whichever it is; only weights
    that take gradients change.

    Source: Cheon, Lee and Paik 2024, arXiv 2405.16731.

    Args:
        model: maps (batch_size, *input_shape) to logits (batch_size, num_classes).
        optimizer: of the model's parameters; give the training on data an optimiser of its own, so that it
            starts without momentum.
        input_shape: shape of one input; inputs are normal noise of mean 0 and variance 1.
        num_classes: labels are drawn from so many classes, all alike.
        steps: steps of the optimiser.
        batch_size: noise inputs in a step.
        seed: decides noise and labels; the global random state is left alone.
        loss: of output and labels.
        on_step: called after each step with its number and its loss (for a progress bar).

    Raises:
        ValueError: if ``steps``, ``batch_size`` or ``num_classes`` is not positive, ``seed`` is no integer,
            or the loss becomes NaN or infinite (the step is named).

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> _ = set_learning_rule(model, RandomFeedback())
        >>> optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        >>> pretrain_on_noise(model, optimizer, input_shape=(8,), num_classes=4, steps=20)
    """
    for argument, value in (("steps", steps), ("batch_size", batch_size), ("num_classes", num_classes)):
        if value < 1:
            raise ValueError(f"{argument} must be at least 1, got {value}")
    parameter = next(model.parameters())
    generator = generator_for(f"noise/{whole_number(seed, 'seed')}", parameter.device)
    for step in range(1, steps + 1):
        noise = torch.randn(
            batch_size, *input_shape, generator=generator, device=parameter.device, dtype=parameter.dtype
        )
        labels = torch.randint(num_classes, (batch_size,), generator=generator, device=parameter.device)
        step_loss = loss(model(noise), labels)
        optimizer.zero_grad()
        step_loss.backward()
        optimizer.step()
        evolve(model, step)
        if step % 50 == 0 or step == steps or on_step is not None:
            number = float(step_loss.detach())
            if not math.isfinite(number):
                raise ValueError(f"noise pretraining: the loss became {number} by step {step}")
            if on_step is not None:
                on_step(step, number)
