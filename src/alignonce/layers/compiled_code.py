"""Compiled code for exact gradients that gradient checkpointing runs again.

Compiled code does what the mode is when it is called, and cannot ask what an eager layer asks to do again
what it did (modes.py). So what runs for exact gradients looks for checkpoints on the call stack and has them
enter the contexts again when they repeat their functions: compiled code by an operator that is a part of it,
and layers that are not compiled too, since the compiler may run a function either way from one time to the
next. What runs for the learning rule, as in training, does nothing of this.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor

__all__ = ["announce", "announce_compiled", "may_be_repeated", "number_of", "opened"]


class _Context:
    """A context of exact gradients that is open."""

    def __init__(self, switches: Sequence[object], again: Callable[[], AbstractContextManager[None]]) -> None:
        self.numbers = {id(switch) for switch in switches}
        self.again = again
        self.checkpoint = next((checkpoint for checkpoint, _, _ in _checkpoints()), None)
        """The innermost one that it was entered in."""


_open: list[_Context] = []


@contextmanager
def opened(switches: Sequence[object], again: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Within the context, these switches may be announced.

    Args:
        switches: what is exact now.
        again: makes the context in which they are.
    """
    context = _Context(switches, again)
    _open.append(context)
    try:
        yield
    finally:
        _open.remove(context)


def number_of(switch: object) -> Tensor:
    """What :func:`announce_compiled` knows a switch by: a tensor, whose value compiled code does not hold."""
    return torch.tensor(id(switch), device="cpu")


def may_be_repeated() -> bool:
    """Return whether a checkpoint may be around: it keeps no graph, or has a hook on what the graph saves."""
    return (
        not torch.is_grad_enabled() or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
    )


def announce(switch: int) -> None:
    """Have the checkpoints whose function is running repeat it in the present mode.

    Args:
        switch: the ``id`` of one that is exact.

    Raises:
        RuntimeError: if a function is repeated whose forward pass was in the other mode.
    """
    contexts = [context for context in _open if switch in context.numbers]
    for checkpoint, function, repeats in _checkpoints() if contexts else ():
        if any(context.checkpoint is checkpoint for context in contexts):
            return  # entered by the function itself, whenever it runs
        known: list[_Context] = getattr(checkpoint, "exact_contexts", [])
        if repeats:
            if any(switch in context.numbers for context in known):
                return
            raise RuntimeError(
                "backward was called inside exact_gradients, for a forward pass outside it that a checkpoint "
                "repeats with compiled code, which would mix both kinds of gradients. Call backward outside "
                "the context, or compile the function that checkpoints"
            )
        for context in contexts:
            if context not in known:
                known = checkpoint.exact_contexts = [*known, context]
                setattr(checkpoint, function, _within(context, getattr(checkpoint, function)))


# Said to write into the number, which it does not: what has no effect is left out of compiled code.
@torch.library.custom_op("alignonce::announce", mutates_args=("number",))
def announce_compiled(number: Tensor) -> None:
    """:func:`announce`, from compiled code.

    Args:
        number: that of the switch, as :func:`number_of` returns it.
    """
    announce(int(number))


@announce_compiled.register_fake
def _(number: Tensor) -> None: ...


def _within(context: _Context, function: Callable[..., Any]) -> Callable[..., Any]:
    def in_context(*args: Any) -> Any:
        with context.again():
            return function(*args)

    return in_context


def _checkpoints() -> Iterator[tuple[Any, str, bool]]:
    """The checkpoints whose functions are running in this thread, from the innermost outwards.

    Each as what holds its function, the name of that, and whether the function is repeated. PyTorch's and
    those made after its reentrant one, as by DeepSpeed and Megatron.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        name = frame.f_code.co_name
        if name in ("forward", "backward"):
            ctx = frame.f_locals.get("ctx") if "ctx" in frame.f_code.co_varnames else None
            if hasattr(ctx, "run_function"):
                yield ctx, "run_function", name == "backward"
        elif name in ("checkpoint", "unpack_hook") and frame.f_globals is vars(torch.utils.checkpoint):
            if name == "unpack_hook":
                yield frame.f_locals["frame"], "recompute_fn", True
            elif "gen" in frame.f_locals:  # it has begun, up to where the function runs
                yield frame.f_locals["gen"].gi_frame.f_locals["new_frame"], "recompute_fn", False
        frame = frame.f_back
