"""How feedback weights follow the optimiser: ``evolve_after`` once, or ``evolve`` after each step."""

import operator
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from alignonce.layers.base import FeedbackLayer, feedback_name
from alignonce.model_access import qualified, refuse_flat_parameters, unwrap, weight_names
from alignonce.rules.base import whole_number
from alignonce.rules.evolving import EvolutionStep, EvolvingRule
from alignonce.rules.guard import Watched, after_this_step, as_one_step, install, own_rows, watched

__all__ = ["Evolution", "evolve", "evolve_after"]


def evolve(model: nn.Module, step: int) -> None:
    """Let feedback weights follow their learning rules; call it after each ``optimizer.step()``.

    It touches only forward weights that have made a step since the last call, and their feedback weights: not
    those that are frozen, that got no gradient, or whose step a gradient scaler skipped. Where no optimiser
    derived from ``torch.optim.Optimizer`` has a weight, its value says whether it has made a step. A second
    call after one step, or a call beside :func:`evolve_after`, does nothing.

    For rules with fixed feedback weights, and for backpropagation, it does nothing, so that one training
    loop serves every rule. A loop that forgets it for a rule that needs it gets a RuntimeError from the
    second ``optimizer.step()``, if the optimiser is derived from ``torch.optim.Optimizer``.

    Args:
        model: a model with or without a learning rule.
        step: steps that the optimiser has made, 1 after the first; a resumed run counts on.

    Raises:
        ValueError: if ``step`` is not a positive integer.
        RuntimeError: if a forward weight is not what it was when the rule was set (replaced, resized, tied to
            another, computed by a parametrisation), or something other than the optimiser has changed it
            where the rule would take that for a step; or if the model was wrapped by FSDP1.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> _ = set_learning_rule(model, KolenPollack())
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> for step in range(1, 4):
        ...     optimizer.zero_grad()
        ...     model(torch.randn(32, 8)).square().mean().backward()
        ...     optimizer.step()
        ...     evolve(model, step)
    """
    if not hasattr(step, "__index__") or (number := operator.index(step)) < 1:
        raise ValueError(f"step must be 1 after the optimiser's first step, got {step!r}")
    _evolve(model, number, lambda weight, found: found.is_due(weight))


def evolve_after(optimizer: Any, model: nn.Module, *, start: int = 0) -> "Evolution":
    """Let feedback weights follow their learning rules after each step of an optimiser, from now on.

    Called once, before training, it stands for a call of :func:`evolve` after each ``optimizer.step()``, and
    touches the same weights, as far as this optimiser has them. With several optimisers, call it once for
    each. It follows the rule that the model has at each step, and does nothing while that is a fixed one.

    An optimiser that wraps others (SAM, Lookahead, ``ZeroRedundancyOptimizer``, those of Accelerate and
    Lightning) counts once: give the outermost one, whose ``step`` is called.

    Args:
        optimizer: derived from ``torch.optim.Optimizer``, or wrapping one that is.
        model: the model whose parameters it has.
        start: steps that the optimiser has made so far, from which the number of a step goes on, for rules
            that act every few steps. A resumed run gives the ``steps`` of the run before.

    Returns:
        What counts the steps (``.steps``, to be kept in a checkpoint) and ends it (``.remove()``).

    Raises:
        TypeError: if ``optimizer`` neither is nor wraps a ``torch.optim.Optimizer``.
        ValueError: if it has none of the model's parameters, or ``start`` is not 0 or more.
        RuntimeError: as :func:`evolve`, from a step of the optimiser.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> _ = set_learning_rule(model, KolenPollack())
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> handle = evolve_after(optimizer, model)
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     model(torch.randn(32, 8)).square().mean().backward()
        ...     optimizer.step()
        >>> handle.steps
        3
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    steps = whole_number(start, "start", 0)
    optimizers = list(_optimizers_in(optimizer))
    reporting = [o for o in optimizers if _reports(o)]
    if not reporting:
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer or wrap one, got {type(optimizer).__name__}, which "
            "reports no steps: call alignonce.evolve(model, step) after each"
        )
    refuse_flat_parameters(model)
    has = {id(p) for o in reporting for group in o.param_groups for p in group["params"]}
    if not any(id(p) in has for p in unwrap(model).parameters()):
        raise ValueError(
            "the optimiser has none of the model's parameters: make it of model.parameters(), after the "
            "model was moved or sharded"
        )
    return Evolution(model, optimizer, reporting, steps)


class Evolution:
    """Evolution of a model after the steps of an optimiser; made by :func:`evolve_after`."""

    steps: int
    """Steps of the optimiser so far, those before this run included."""

    def __init__(self, model: nn.Module, optimizer: Any, reporting: list[Optimizer], steps: int) -> None:
        install()
        self.steps = steps
        self._model = model
        self._ends: list[Callable[[], None]] = [
            o.register_step_post_hook(torch.compiler.disable(self._after_step)).remove for o in reporting
        ]
        if not _reports(optimizer):
            # Such as Lookahead, which goes on to change weights after the step of the optimiser inside.
            before = vars(optimizer).get("step")
            optimizer.step = as_one_step(optimizer.step)
            self._ends.append(partial(_restore_step, optimizer, optimizer.step, before))

    def remove(self) -> None:
        """End it; from now on it is for :func:`evolve` again."""
        for end in self._ends:
            end()
        self._ends.clear()

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        after_this_step(optimizer, self._follow)

    def _follow(self, stepped: set[int]) -> None:
        self.steps += 1
        _evolve(self._model, self.steps, lambda weight, found: found.stepped and id(weight) in stepped)


@torch.no_grad()
def _evolve(model: nn.Module, number: int, is_due: Callable[[Tensor, Watched], bool]) -> None:
    model = unwrap(model)
    layers = [
        (name, layer, layer.learning_rule)
        for name, layer in model.named_modules()
        if isinstance(layer, FeedbackLayer)
        and layer.learning_rule.evolves
        and isinstance(layer.learning_rule, EvolvingRule)
    ]
    if not layers:
        return
    refuse_flat_parameters(model)
    names = weight_names(model)
    depths = {key: depth for depth, key in enumerate(names)}
    seen: dict[int, Tensor] = {}
    for layer_name, layer, rule in layers:
        for weight_name in layer.held_names():
            feedback = layer.get_buffer(feedback_name(weight_name))
            weight, found = _as_at_conversion(layer, layer_name, weight_name, feedback, seen)
            if id(weight) in seen:
                continue
            seen[id(weight)] = feedback
            if not weight.requires_grad or not is_due(weight, found):
                continue
            rule.evolve(
                EvolutionStep(
                    own_rows(weight),
                    own_rows(feedback),
                    found.previous(weight),
                    names[id(weight)],
                    depths[id(weight)],
                    number,
                    _total_over(weight),
                )
            )
            found.evolved(weight)


def _as_at_conversion(
    layer: FeedbackLayer, layer_name: str, weight_name: str, feedback: Tensor, seen: dict[int, Tensor]
) -> tuple[Tensor, Watched]:
    """The forward weight that a layer has now, if it is the one that B was made for."""
    weight = layer._parameters.get(weight_name)
    found = None if weight is None else watched(weight)
    name = qualified(layer_name, weight_name)
    if weight is None:
        what = "is computed from others (pruning, weight_norm, a parametrisation, FSDP1): remove that, and"
    elif found is None:
        what = "was replaced by another parameter:"
    elif weight.shape != feedback.shape:
        what = f"was resized from {tuple(feedback.shape)} to {tuple(weight.shape)}:"
    elif seen.get(id(weight), feedback) is not feedback:
        what = "was tied to another layer's, which has a feedback weight of its own:"
    elif found.jumped:
        raise RuntimeError(
            f"between two steps of the optimiser, something else has changed the forward weight {name!r}, "
            "which its learning rule must not take for a step: call set_learning_rule again; or, if the "
            "change belongs to each step (a projection, say), call evolve(model, step) after it, in place of "
            "evolve_after"
        )
    else:
        return weight, found
    raise RuntimeError(
        f"the forward weight {name!r} is not the one that its learning rule was set for: it {what} call "
        "set_learning_rule again"
    )


def _total_over(weight: Any) -> Callable[[Tensor], Tensor]:
    if not hasattr(weight, "to_local"):
        return torch.sum
    group = weight.device_mesh.get_group()

    def total(rows: Tensor) -> Tensor:
        sum = rows.sum()
        torch.distributed.all_reduce(sum, group=group)
        return sum

    return total


def _optimizers_in(optimizer: Any) -> Iterator[Optimizer]:
    """An optimiser and those that it wraps, at any depth."""
    found: dict[int, Optimizer] = {}
    waiting = [optimizer]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list | tuple):
            waiting.extend(inner for inner in item if isinstance(inner, Optimizer))
        elif id(item) not in found and (isinstance(item, Optimizer) or item is optimizer):
            found[id(item)] = item
            waiting.extend(v for v in getattr(item, "__dict__", {}).values()
                           if isinstance(v, Optimizer | list | tuple))  # fmt: skip
    yield from found.values()


def _reports(optimizer: Any) -> bool:
    """Return whether an optimiser runs hooks around its step, as those made by torch's constructor do."""
    return (
        isinstance(optimizer, Optimizer)
        and getattr(type(optimizer).step, "hooked", False)
        and hasattr(optimizer, "_optimizer_step_post_hooks")
    )


def _restore_step(optimizer: Any, ours: Callable[..., Any], before: Callable[..., Any] | None) -> None:
    if vars(optimizer).get("step") is not ours:
        return  # somebody has wrapped it since
    if before is None:
        del optimizer.step
    else:
        optimizer.step = before
