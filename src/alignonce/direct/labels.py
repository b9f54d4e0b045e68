"""Labels in a model's graph: which tensors entered and left which modules.

A label is the identity on a tensor, whose node stays in the graph of the backward pass.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

__all__ = ["Output", "Port", "Recorder", "Run", "Shapes", "Sizes", "TapInput", "differentiable_tensors"]


class TapInput(NamedTuple):
    """One of the floating-point tensors that enter a module, by its place among them."""

    module: str
    place: int


class Output(NamedTuple):
    """One of the floating-point tensors that leave a layer, by its place among them."""

    layer: str
    place: int


class Shapes(NamedTuple):
    """The shapes of one tensor in two runs of which the second has more examples."""

    first: torch.Size
    second: torch.Size

    @property
    def changed(self) -> tuple[int, ...]:
        """The dimensions that differ."""
        return tuple(i for i, (a, b) in enumerate(zip(self.first, self.second, strict=True)) if a != b)


def differentiable_tensors(values: Any) -> list[Tensor]:
    """The floating-point tensors in a structure, each once, in order."""
    found = {id(x): x for x in tree_leaves(values) if isinstance(x, Tensor) and x.is_floating_point()}
    return list(found.values())


class Sizes(NamedTuple):
    """Shapes of what entered and left modules, by module and place, of each run."""

    inputs: dict[tuple[str, int], list[torch.Size]]
    outputs: dict[tuple[str, int], list[torch.Size]]


@dataclass(eq=False)
class Run:
    """A call of a watched module."""

    name: str
    begin: int
    end: int = -1
    inputs: dict[int, torch.Size] = field(default_factory=dict)
    """Shapes, of those with a graph."""
    outputs: dict[int, torch.Size] = field(default_factory=dict)

    def holds(self, other: "Run") -> bool:
        """Return whether another run began and ended within this one."""
        return self.begin < other.begin and other.end < self.end


class Port(NamedTuple):
    """Where a tensor enters or leaves a run."""

    run: Run
    enters: bool
    place: int


class _Label(torch.autograd.Function):
    """The identity, whose node in the graph knows its port."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, port: Any) -> Tensor:
        return x.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.port = inputs[1]

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor, None]:
        return error, None


class Recorder:
    """Hooks that list the runs of watched modules and label what enters and leaves them."""

    def __init__(self, calls: Mapping[str, nn.Module], watched: Mapping[str, nn.Module]) -> None:
        self.runs: list[Run] = []
        self.calls: list[Run] = []
        """Of modules that may hold all others."""
        self.nodes: dict[Port, Any] = {}
        """Of the graph, at each port."""
        self._clock = 0
        self._open: list[Run] = []
        self._handles: list[Any] = []
        for name, module in calls.items():
            self._handles.append(module.register_forward_pre_hook(self._starter(name)))
        for name, module in watched.items():
            self._handles.append(module.register_forward_pre_hook(self._starter(name)))
            self._handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._leave))
        for module in calls.values():
            self._handles.append(module.register_forward_hook(self._end_of_call))

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _starter(self, name: str) -> Callable[..., None]:
        def start(module: nn.Module, args: Any) -> None:
            self._clock += 1
            self._open.append(Run(name, self._clock))

        return start

    def _close(self) -> Run:
        self._clock += 1
        run = self._open.pop()
        run.end = self._clock
        return run

    def _end_of_call(self, module: nn.Module, args: Any, output: Any) -> None:
        self.calls.append(self._close())

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        run = self._open[-1]
        return self._labelled((args, kwargs), run, enters=True)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        run = self._close()
        self.runs.append(run)
        return self._labelled(output, run, enters=False)

    def _labelled(self, values: Any, run: Run, enters: bool) -> Any:
        done: dict[int, Tensor] = {}
        for index, x in enumerate(differentiable_tensors(values)):
            if x.requires_grad and torch.is_grad_enabled():
                port = Port(run, enters, index)
                done[id(x)] = _Label.apply(x, port)
                self.nodes[port] = done[id(x)].grad_fn
                (run.inputs if enters else run.outputs)[index] = x.shape
        return tree_map_only(Tensor, lambda x: done.get(id(x), x), values)

    def shapes(self, enters: bool) -> dict[tuple[str, int], list[torch.Size]]:
        """By module and place, of each run."""
        found: dict[tuple[str, int], list[torch.Size]] = {}
        for run in self.runs:
            for index, shape in (run.inputs if enters else run.outputs).items():
                found.setdefault((run.name, index), []).append(shape)
        return found
