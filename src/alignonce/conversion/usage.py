"""Which layers a model uses by calling them: a feedback weight that is never called carries no error."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from alignonce.layers.kinds import forward_weight_names
from alignonce.model_access import Inputs, call_arguments, exact_gradients
from alignonce.undisturbed import allowing_requires_grad, undisturbed

__all__ = ["Usage", "observe_usage"]


@dataclass(frozen=True)
class Usage:
    """What became of the layers of a model in a run."""

    idle: frozenset[str]
    """Layers that were not called."""
    bypassed: frozenset[str]
    """Those of them whose weights the outputs depend on all the same: something else reads them."""


def observe_usage(model: nn.Module, layers: Mapping[str, nn.Module], inputs: Inputs) -> Usage:
    """Run a model once, in the mode that it is in, and see which of its layers are called.

    Args:
        model: an unwrapped model, which is left as it was.
        layers: layers to watch, by name.
        inputs: a batch.

    Returns:
        Which were not called. The output projection of an attention is called if the attention is.
    """
    called: set[str] = set()
    args, kwargs = call_arguments(inputs)
    with (
        exact_gradients(model),
        undisturbed(model),
        allowing_requires_grad(),
        _learning(layers),
        _watched(layers, called),
    ):
        outputs = tree_leaves(model(*args, **kwargs))
        called |= {f"{name}.out_proj".removeprefix(".") for name in called if _is_attention(layers[name])}
        idle = frozenset(layers) - called
        return Usage(idle, frozenset(_bypassed(model, {n: layers[n] for n in idle}, outputs)))


def _bypassed(model: nn.Module, idle: Mapping[str, nn.Module], outputs: list[Any]) -> set[str]:
    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values())
    weights = [
        (name, weight)
        for name, layer in idle.items()
        for weight in map(layer.get_parameter, forward_weight_names(layer))
        if owners[id(weight)] == 1  # a shared one is perhaps read by another of its owners, as is right
    ]
    ends = [y for y in outputs if isinstance(y, Tensor) and y.is_floating_point() and y.requires_grad]
    if not weights or not ends:
        return set()
    errors = [torch.ones_like(y) for y in ends]
    gradients = torch.autograd.grad(ends, [weight for _, weight in weights], errors, allow_unused=True)
    return {name for (name, _), gradient in zip(weights, gradients, strict=True) if gradient is not None}


@contextmanager
def _watched(layers: Mapping[str, nn.Module], called: set[str]) -> Iterator[None]:
    """Note the calls of layers; by their ``forward``, since hooks miss ``layer.forward(x)``."""

    def watching(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*args: Any, **kwargs: Any) -> Any:
            called.add(name)
            return forward(*args, **kwargs)

        return watch

    before = {name: vars(layer).get("forward") for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            vars(layer)["forward"] = watching(name, layer.forward)
        yield
    finally:
        for name, layer in layers.items():
            del vars(layer)["forward"]
            if before[name] is not None:
                vars(layer)["forward"] = before[name]


@contextmanager
def _learning(layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """Let all forward weights take gradients, frozen ones too."""
    weights = [w for layer in layers.values() for w in map(layer.get_parameter, forward_weight_names(layer))]
    frozen = [weight for weight in weights if not weight.requires_grad]
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)


def _is_attention(layer: nn.Module) -> bool:
    return isinstance(layer, nn.MultiheadAttention)
