"""The one hook of rules whose feedback weights change: ``evolve``, after each step of the optimiser."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from alignonce.evolution_guard import mark_evolved
from alignonce.evolving_rules import EvolutionStep, EvolvingRule
from alignonce.layers import FeedbackLayer, feedback_name, forward_weight_names, previous_name
from alignonce.model_access import unwrap, weight_names

__all__ = ["evolve"]


@torch.no_grad()
def evolve(model: nn.Module, step: int) -> None:
    """Let feedback weights follow their learning rules; call it after each ``optimizer.step()``.

    For rules with fixed feedback weights, and for backpropagation, it does nothing, so that one training
    loop serves every rule. A loop that forgets it for a rule that needs it gets a RuntimeError from the
    second ``optimizer.step()``, if the optimiser is derived from ``torch.optim.Optimizer``.

    Args:
        model: a model with or without a learning rule.
        step: steps that the optimiser has made, 1 after the first; a resumed run counts on.

    Raises:
        ValueError: if ``step`` is not a positive integer.
    """
    if not isinstance(step, int) or step < 1:
        raise ValueError(f"step must be 1 after the optimiser's first step, got {step!r}")
    model = unwrap(model)
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, FeedbackLayer) and isinstance(layer.learning_rule, EvolvingRule)
    ]
    if not layers:
        return
    names = weight_names(model)
    depths = {key: depth for depth, key in enumerate(names)}
    done: set[int] = set()
    for layer in layers:
        rule = layer.learning_rule
        for weight_name in forward_weight_names(layer):
            weight = getattr(layer, weight_name)
            key = id(weight)
            if key in done or not isinstance(rule, EvolvingRule) or not rule.evolves:
                continue
            done.add(key)
            previous = layer._buffers.get(previous_name(weight_name))
            feedback = layer.get_buffer(feedback_name(weight_name))
            rule.evolve(
                EvolutionStep(
                    _own_rows(weight),
                    _own_rows(feedback),
                    None if previous is None else _own_rows(previous),
                    names[key],
                    depths[key],
                    step,
                    _total_over(weight),
                )
            )
            if previous is not None:
                previous.copy_(weight)
            mark_evolved(weight)


def _own_rows(tensor: Tensor) -> Tensor:
    # As in formats.base.gathered, by the method and not by the class.
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _total_over(weight: Any) -> Callable[[Tensor], Tensor]:
    if not hasattr(weight, "to_local"):
        return torch.sum
    group = weight.device_mesh.get_group()

    def total(rows: Tensor) -> Tensor:
        sum = rows.sum()
        torch.distributed.all_reduce(sum, group=group)
        return sum

    return total
