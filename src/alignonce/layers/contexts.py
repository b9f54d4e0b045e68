"""The open contexts of exact gradients, and how copies and repeated functions come to be in them.

A copy that is made in a context is in it, too, and as long.

Gradient checkpointing repeats functions. What is not compiled asks the graph what it did before (modes.py);
compiled code cannot, and does what the mode is when it is called. So what runs for exact gradients looks for
checkpoints on the call stack and has them enter the contexts again when they repeat their functions: compiled
code by an operator that is a part of it, and layers that are not compiled too, since the compiler may run a
function either way from one time to the next. What runs for the learning rule, as in training, does nothing
of this.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor

__all__ = [
    "Context",
    "announce",
    "announce_compiled",
    "contexts_of",
    "may_be_repeated",
    "number_of",
    "opened",
]


class Context:
    """A context of exact gradients.

    Args:
        switches: what is exact in it.
        again: makes a context of the same switches.
    """

    def __init__(self, switches: list[Any], again: Callable[[], AbstractContextManager[None]]) -> None:
        self.switches = switches
        self.again = again
        self.numbers = {id(switch) for switch in switches}
        self.checkpoint = next((checkpoint for checkpoint, _, _ in _checkpoints()), None)
        """The innermost one that it was entered in."""

    def take_in(self, switch: Any) -> None:
        """Have a switch be exact until the context is left: a copy of one, or one that was made anew."""
        if id(switch) not in self.numbers:
            self.switches.append(switch)
            self.numbers.add(id(switch))
        switch.exact, switch.mode_number = True, number_of(switch)

    def __deepcopy__(self, memo: Any) -> "Context":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _left, ()  # whoever unpickles is not in it


def _left() -> None:
    return None


_open: list[Context] = []


@contextmanager
def opened(context: Context) -> Iterator[None]:
    """Open a context, until this one is left: its switches, and copies of them, are exact."""
    _open.append(context)
    for switch in context.switches:
        switch.exact = True
    try:
        yield
    finally:
        _open.remove(context)  # not always the last one: threads and generators leave theirs in any order
        for switch in context.switches:
            if "exact" in vars(switch):  # else it is a plain layer by now
                switch.exact = bool(contexts_of(id(switch)))


def contexts_of(switch: int) -> list[Context]:
    """Those that are open for a switch, given its ``id``, from the outermost inwards."""
    return [context for context in _open if switch in context.numbers]


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
    contexts = contexts_of(switch)
    for checkpoint, function, repeats in _checkpoints() if contexts else ():
        if any(context.checkpoint is checkpoint for context in contexts):
            return  # entered by the function itself, whenever it runs
        known: list[Context] = getattr(checkpoint, "exact_contexts", [])
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


def _within(context: Context, function: Callable[..., Any]) -> Callable[..., Any]:
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
