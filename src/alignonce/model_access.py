"""What every part asks of a model: the one inside its wrappers, its weights by name, exact gradients."""

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from alignonce import direct
from alignonce.formats.base import gathered
from alignonce.layers.base import FeedbackLayer
from alignonce.layers.kinds import forward_weight_names
from alignonce.layers.modes import exactly
from alignonce.rules.guard import FLATTENED

__all__ = [
    "Inputs",
    "call_arguments",
    "check_inputs",
    "exact_gradients",
    "feedback_weights",
    "qualified",
    "refuse_flat_parameters",
    "unwrap",
    "weight_names",
]

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]
"""A batch: one tensor, or a sequence of positional or a mapping of keyword arguments."""


@contextmanager
def exact_gradients(model: nn.Module) -> Iterator[None]:
    """Within the context, a model's backward pass is backpropagation's: for measuring and honest attacks.

    It is the forward pass that decides: what is computed within the context gets exact gradients, also if
    ``backward`` is called after it, and with it what gradient checkpointing computes again. Contexts can be
    nested.

    Args:
        model: a model with or without a learning rule. Layers that get their first rule inside the context
            are not in it.

    Raises:
        RuntimeError: from ``backward``, if only this is inside the context and a checkpoint that is not
            compiled computes a compiled model again.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> _ = set_learning_rule(model, RandomFeedback())
        >>> with exact_gradients(model):
        ...     loss = model(torch.randn(32, 8)).square().mean()
        >>> loss.backward()  # backpropagation's gradients: the forward pass was inside
    """
    model = unwrap(model)
    layers = [m for m in model.modules() if isinstance(m, FeedbackLayer)]
    with exactly([*layers, *direct.states_of(model)]):
        yield


def feedback_weights(model: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Iterate over (name, forward weight W, feedback weight B), a shared W once, in the model's order.

    Weights that are spread over processes (:mod:`alignonce.distributed`) come whole, as copies: all processes
    must iterate.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> _ = set_learning_rule(model, RandomFeedback())
        >>> [(name, w.shape == b.shape) for name, w, b in feedback_weights(model)]
        [('0', True), ('2', True)]
    """
    model = unwrap(model)
    refuse_flat_parameters(model)
    seen: set[int] = set()
    for name, layer in model.named_modules():
        if isinstance(layer, FeedbackLayer) and not layer.is_norm:
            for weight_name in layer.held_names():
                weight = getattr(layer, weight_name)
                if id(weight) not in seen:
                    seen.add(id(weight))
                    yield (
                        qualified(name, weight_name),
                        gathered(weight),
                        gathered(layer.feedback_of(weight_name)),
                    )


def refuse_flat_parameters(model: nn.Module) -> None:
    """Refuse what FSDP1 has wrapped, where layers have no forward weights but views of one flat parameter.

    Raises:
        RuntimeError: if ``model`` is or holds a ``FullyShardedDataParallel``.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")  # imported by whoever has wrapped the model
    if fsdp is not None and any(isinstance(m, fsdp.FullyShardedDataParallel) for m in model.modules()):
        raise RuntimeError(FLATTENED)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside what ``torch.compile`` and DistributedDataParallel put around it."""
    while True:
        if isinstance(model, torch._dynamo.OptimizedModule):
            model = model._orig_mod
        elif isinstance(model, DistributedDataParallel):
            model = model.module
        else:
            return model


def call_arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a forward pass on ``inputs``."""
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if not isinstance(inputs, Sequence) or isinstance(inputs, str):
        raise TypeError(
            "inputs must be a tensor, a sequence of positional or a mapping of keyword arguments, got "
            f"{type(inputs).__name__}"
        )
    return tuple(inputs), {}


def check_inputs(model: nn.Module, inputs: Inputs | None) -> None:
    """Refuse inputs that a model's forward pass does not take, such as labels.

    Raises:
        TypeError: if they are of another type, or no arguments of the model's ``forward``.
    """
    if inputs is None:
        return
    args, kwargs = call_arguments(inputs)
    try:
        signature = inspect.signature(model.forward)
    except ValueError:  # compiled code, which says itself what it takes
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        call = "model(**inputs)" if kwargs else "model(*inputs)"
        raise TypeError(
            f"inputs= are the arguments of {call}, which {type(model).__name__} does not take: {error}. "
            "Leave out what is no argument of the model, such as labels"
        ) from None


def weight_names(model: nn.Module) -> dict[int, str]:
    """By identity of each forward weight of known layers, in the model's order: its first name.

    Counted over the whole model, so that a weight's seed and depth do not depend on ``where``.
    """
    names: dict[int, str] = {}
    for name, module in model.named_modules():
        for weight_name in forward_weight_names(module):
            names.setdefault(id(module._parameters[weight_name]), qualified(name, weight_name))
    return names


def qualified(module_name: str, weight_name: str) -> str:
    """A forward weight goes by the name of its layer, unless the layer has several."""
    if weight_name == "weight":
        return module_name or "weight"
    return f"{module_name}.{weight_name}".removeprefix(".")
