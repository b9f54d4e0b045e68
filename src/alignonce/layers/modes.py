"""Whether a layer's forward pass is for exact gradients, also where it repeats an earlier one.

Gradient checkpointing runs a forward pass again inside the backward pass, wherever that is called from. It
must do what the original did, whatever the mode is by then. What is known in a recomputation is the node of
the autograd graph that is at work, and that node was made in the original forward pass. Autograd numbers its
nodes as they are made, so that the numbers at which ``exact_gradients`` was entered and left show the mode.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling, is_exporting

from alignonce.layers.contexts import (
    Context,
    announce,
    announce_compiled,
    contexts_of,
    may_be_repeated,
    number_of,
    opened,
)

__all__ = ["MODE_ATTRIBUTES", "Switch", "exactly", "runs_exactly"]

MODE_ATTRIBUTES = ("exact", "spans", "mode_number")
"""The attributes in which a switch keeps its mode."""


class Switch:
    """What has a mode: a layer, or the state that the hooks of direct feedback share."""

    exact: bool = False
    """The present mode: while True, the backward pass is backpropagation's."""
    spans: "tuple[_Spans, ...]" = ()
    """When contexts were open that this was switched by; one for each set of layers switched together."""
    mode_number: Tensor | None = None
    """What compiled code announces this by; None before the first context."""

    def __getstate__(self) -> Any:
        """What copies take over: of the mode, the contexts that are open; of past ones nothing."""
        state = super().__getstate__()
        if isinstance(state, dict) and "exact" in state:
            state = {k: v for k, v in state.items() if k not in MODE_ATTRIBUTES}
            if contexts := contexts_of(id(self)):
                state["exact_in"] = contexts
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Be a copy."""
        state = dict(state)
        contexts = state.pop("exact_in", ())
        if isinstance(self, nn.Module):
            super().__setstate__(state)  # type: ignore[misc]
        else:
            vars(self).update(state)
        for context in contexts:
            if context is not None:  # unpickled
                context.take_in(self)


def runs_exactly(switch: Switch) -> bool:
    """Return whether the forward pass that a layer is in is for exact gradients.

    Args:
        switch: the layer.

    Returns:
        Its mode; in a recomputation, the mode that it had in the forward pass which is repeated.
    """
    if is_compiling():
        if switch.exact and switch.mode_number is not None and not is_exporting():
            announce_compiled(switch.mode_number)
        return switch.exact
    exact = _runs_exactly(switch)
    if exact and may_be_repeated():
        announce(id(switch))
    return exact


def _runs_exactly(switch: Switch) -> bool:
    if not switch.spans:
        return switch.exact
    if torch._C._current_graph_task_id() == -1:  # not inside a backward pass
        for span in switch.spans:
            span.recomputation = None  # left there if a backward pass has failed
        return switch.exact
    node = torch._C._current_autograd_node()
    # The replicas of DataParallel live for one forward pass, in threads that count for themselves.
    if node is None or "_is_replica" in vars(switch):
        return switch.exact
    exact = False
    for span in switch.spans:  # all of them, since each follows the recomputation
        exact |= span.hold(node)
    return exact


@contextmanager
def exactly(switches: Sequence[Switch]) -> Iterator[None]:
    """Within the context, forward passes of these layers are for exact gradients.

    Args:
        switches: the layers.
    """
    if is_compiling():  # nobody needs to know: the compiler settles what is recomputed
        before = [switch.exact for switch in switches]
        for switch in switches:
            switch.exact = True
        try:
            yield
        finally:
            for switch, exact in zip(switches, before, strict=True):
                switch.exact = exact
        return
    switches = list(switches)
    context = Context(switches, partial(exactly, switches))
    with _shared_spans(switches).present().entered(), opened(context):
        yield


class _Numbers:
    """Sequence numbers of the nodes that were made in a context, as the ends of half-open intervals."""

    def __init__(self) -> None:
        self.ends = array("q")
        self.depth = 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        if not self.depth:
            self._toggle()
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
            if not self.depth:
                self._toggle()

    def hold(self, node: Any) -> bool:
        return bisect_right(self.ends, node._sequence_nr()) % 2 == 1

    def _toggle(self) -> None:
        now = torch._C._autograd._get_sequence_nr()
        if self.ends and self.ends[-1] == now:  # an interval without nodes, or two that adjoin
            self.ends.pop()
        else:
            self.ends.append(now)


class _Recomputation(_Numbers):
    """What a node of the graph runs again, which may be a graph with checkpoints and contexts of its own."""

    def __init__(self, node: Any, exact: bool) -> None:
        super().__init__()
        self.number = node._sequence_nr()
        self.exact = exact


class _Spans(_Numbers):
    """The numbers for layers that are switched together, ``size`` of them."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.recomputation: _Recomputation | None = None

    def present(self) -> _Numbers:
        """Those that a context which is entered now belongs to."""
        node = torch._C._current_autograd_node() if torch._C._current_graph_task_id() != -1 else None
        return self if node is None else self._follow(node)

    def hold(self, node: Any) -> bool:
        """Return whether the forward pass that is repeated while ``node`` is at work was in a context."""
        recomputation = self._follow(node)
        if recomputation.depth or recomputation.exact:
            return True
        # Another node than the one that runs all this again: one that was made in doing so.
        return node._sequence_nr() != recomputation.number and _Numbers.hold(recomputation, node)

    def _follow(self, node: Any) -> _Recomputation:
        """The recomputation at work: the outermost one, until its node has ended.

        Nodes made in it, of checkpoints within checkpoints, are made after the contexts were left, and on a
        GPU in a thread that counts for itself.
        """
        if self.recomputation is None:
            self.recomputation = recomputation = _Recomputation(node, super().hold(node))

            def end(*_: Any) -> None:
                handle.remove()
                if self.recomputation is recomputation:
                    self.recomputation = None

            handle = node.register_hook(end)
        return self.recomputation


def _shared_spans(switches: Sequence[Switch]) -> _Spans:
    """The spans of exactly these layers, made and given to them at the first call."""
    size = len(switches)
    for spans in switches[0].spans if switches else ():
        if spans.size == size and all(spans in switch.spans for switch in switches):
            return spans
    spans = _Spans(size)
    for switch in switches:
        switch.spans = (*switch.spans, spans)
        if switch.mode_number is None:
            switch.mode_number = number_of(switch)
    return spans
