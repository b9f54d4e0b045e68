"""Direct feedback alignment: the error of the output goes to each layer directly.

The input of each layer is cut off from what made it, so that no error passes from layer to layer. At an
output layer, the inputs that were cut and that it depends on are joined to its output: in the backward pass
each receives the output's error through a random matrix of its own.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alignonce.direct.hooks import Begin, Cut, End, JoinAtOutput, Refuse, Routes, State
from alignonce.rules.direct import DirectFeedback

__all__ = ["Plan", "Tap", "install", "states_of", "uninstall"]


@dataclass(frozen=True)
class Tap:
    """A module whose inputs receive the outputs' errors."""

    name: str
    module: nn.Module
    buffers: dict[str, Tensor]
    """Each B, (output size, input size), by the name of its buffer."""
    routes: Routes

    @property
    def feedback(self) -> tuple[Tensor, ...]:
        """Each B."""
        return tuple(self.buffers.values())


@dataclass(frozen=True)
class Plan:
    """All that direct feedback is to put into a model."""

    taps: tuple[Tap, ...]
    """In the order in which they run."""
    outputs: tuple[tuple[nn.Module, dict[int, int]], ...]
    """Output layers, and for each of their output tensors by place: the number of the output."""
    hidden: frozenset[int]
    """Numbers of outputs that others depend on."""
    unseen: tuple[tuple[str, nn.Module], ...]
    """Layers that did not run."""
    entrance: nn.Module
    """The module whose call is a forward pass."""
    once: bool
    """Whether no output has to be looked up in the graph."""


_HOOKS = (Begin, Cut, JoinAtOutput, End, Refuse)


def install(plan: Plan, rule: DirectFeedback) -> None:
    """Put direct feedback into a model that has none; its layers must be plain or keep their own rules."""
    state = State(rule, sum(len(numbers) for _, numbers in plan.outputs), plan.hidden, plan.once)
    plan.entrance.register_forward_pre_hook(Begin(state))
    for tap in plan.taps:
        for name, feedback in tap.buffers.items():
            tap.module.register_buffer(name, feedback)
        tap.module.register_forward_pre_hook(Cut(state, tap.name, tap.routes), with_kwargs=True)
    names = {tap.module: tap.name for tap in plan.taps}
    for layer, numbers in plan.outputs:
        # Before hooks that catch the output.
        hook = JoinAtOutput(state, names[layer], numbers)
        layer.register_forward_hook(hook, prepend=True)
    for name, layer in plan.unseen:
        layer.register_forward_pre_hook(Refuse(state, name), with_kwargs=True)
    plan.entrance.register_forward_hook(End(state), always_call=True)
    _forget_compiled_code()


def uninstall(model: nn.Module) -> None:
    """Take direct feedback away, if there is any."""
    found = False
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, _HOOKS)]:
                found = True
                del hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)
                module._forward_hooks_always_called.pop(key, None)
        for name in [n for n in module._buffers if n.startswith("direct_feedback")]:
            delattr(module, name)
    if found:
        _forget_compiled_code()


def states_of(model: nn.Module) -> Iterator[State]:
    """The shared states of direct feedback in a model (none or one), to switch it to exact gradients."""
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, Begin):
                yield hook.state


def _forget_compiled_code() -> None:
    """Compiled code is not guarded by hooks: what was compiled before would run on without them, or with."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
