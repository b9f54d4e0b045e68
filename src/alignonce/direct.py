"""Direct feedback alignment: the error of the output goes to each layer directly.

The input of each layer is cut off from what made it, so that no error passes from layer to layer. At an
output layer, the inputs that were cut and that it depends on are joined to its output: in the backward pass
each receives the output's error through a random matrix of its own.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from alignonce.direct_hooks import Begin, Cut, End, JoinAtOutput, Refuse, Routes, State
from alignonce.rules import LearningRule, whole_number

__all__ = ["DirectFeedback", "Plan", "Tap", "install", "states_of", "uninstall"]


@dataclass(frozen=True)
class DirectFeedback(LearningRule):
    """Direct feedback alignment: the input h of each layer receives B·e, with e the error of the output.

    e is the gradient of the loss at the output of an output layer, whatever the loss. Output layers are
    those whose output the model returns, but for norms, activations and shortcuts on the way, and those that
    no other layer builds on. Of several outputs (two heads, an auxiliary one), h receives the sum of B·e over
    those that depend on it, each with a B of its own; one that is not in the loss adds nothing. A hidden
    state that is returned is an output too, whose e includes what later layers send: ``outputs`` leaves it
    out.

    B is random, fixed, and has one row for each element of an example's output and one column for each of
    its h: B·e has about the norm of e. Where output and h share their other dimensions, B acts on each token
    of a sequence and on each pixel of an image by itself. Needs a batch to learn the shapes, which is run
    with one example more to learn which dimension is the batch's:
    ``set_learning_rule(model, DirectFeedback(), inputs=batch)``.

    Within attention and recurrent layers, which are several layers in one, the inner feedback weights are
    those of :class:`RandomFeedback`. Skip connections without weights carry the errors of the layers that
    they skip; tapping whole blocks cuts these too.

    Source: Nøkland 2016, arXiv 1609.01596, equation 6.

    Args:
        taps: ``"layers"``, or names or globs of modules (say, residual blocks) whose inputs are tapped
            instead; what is inside keeps the learning rule that it has.
        seed: with the module's name, decides B.
        outputs: ``"returned"``, or names or globs of the output layers.
        max_bytes: the most that all B may take together; more is refused before any is made.
    """

    taps: str | Sequence[str] = "layers"
    seed: int = 0
    outputs: str | Sequence[str] = field(default="returned", repr=False)
    max_bytes: int = field(default=2**30, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", whole_number(self.seed, "seed"))
        for name in ("taps", "outputs"):
            value = getattr(self, name)
            if not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))

    def _feedback(self, w: Tensor, name: str, depth: int) -> Tensor:
        raise TypeError("direct feedback belongs to a layer's input, not to a forward weight")


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
