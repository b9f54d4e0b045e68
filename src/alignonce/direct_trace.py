"""What direct feedback must know of a model: its outputs, what depends on what, the dimension of the batch.

A model runs with labels: the identity on each tensor that enters or leaves a watched module, which stays in
the graph of the backward pass. The graph between labels says which layers are outputs, and which inputs each
output depends on. A second run with more examples says by its shapes which dimension is the batch's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from alignonce.undisturbed import allowing_requires_grad, undisturbed

__all__ = ["Findings", "Output", "Shapes", "TapInput", "differentiable_tensors", "trace"]


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


@dataclass(frozen=True)
class Findings:
    """What was found out about a model."""

    outputs: dict[Output, Shapes]
    """First that of the layer that ends last, the others in the order in which they end."""
    inputs: dict[TapInput, Shapes]
    """Those that outputs depend on."""
    idle: frozenset[TapInput]
    """Those with a graph that no output depends on."""
    depends: dict[Output, frozenset[TapInput]]
    """The tapped inputs that each output depends on."""
    hidden: frozenset[Output]
    """Outputs that others depend on."""
    ran: dict[str, None]
    """Watched modules that ran with a graph, in the order in which they first ended."""
    entrance: str
    """The innermost module whose call holds all runs of the watched modules."""
    once: bool
    """Whether all that is to be known when an output is there is which modules ran before."""


def trace(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    taps: Mapping[str, nn.Module],
    chosen: frozenset[str],
    args: Any,
    kwargs: Any,
) -> Findings:
    """Run a model a few times as in training; it is left as it was.

    Layers that do not run in training mode are looked for in evaluation mode as well.

    Args:
        model: the model, without hooks of direct feedback at work.
        layers: its layers with weights, by name.
        taps: the modules whose inputs are to be tapped, by name.
        chosen: the layers that are outputs; if empty, they are found.
        args: positional arguments of a forward pass.
        kwargs: keyword arguments of a forward pass.

    Raises:
        ValueError: if the batch's dimension cannot be found, errors could pass a tapped module unseen, or a
            module runs on inputs of several sizes.
    """
    found = _in_mode(model, layers, taps, chosen, args, kwargs, "train")
    if not found.ran.keys() >= layers.keys() | taps.keys():
        other = _in_mode(model, layers, taps, chosen, args, kwargs, "eval")
        found = _merged(found, other) if other.ran.keys() - found.ran.keys() else found
    return found


def differentiable_tensors(values: Any) -> list[Tensor]:
    """The floating-point tensors in a structure, each once, in order."""
    found = {id(x): x for x in tree_leaves(values) if isinstance(x, Tensor) and x.is_floating_point()}
    return list(found.values())


@dataclass(eq=False)
class _Run:
    """A call of a watched module."""

    name: str
    begin: int
    end: int = -1
    inputs: dict[int, torch.Size] = field(default_factory=dict)
    """Shapes, of those with a graph."""
    outputs: dict[int, torch.Size] = field(default_factory=dict)

    def holds(self, other: "_Run") -> bool:
        return self.begin < other.begin and other.end < self.end


class _Port(NamedTuple):
    """Where a tensor enters or leaves a run."""

    run: _Run
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


class _Recorder:
    """Hooks that list the runs of watched modules and label what enters and leaves them."""

    def __init__(self, calls: Mapping[str, nn.Module], watched: Mapping[str, nn.Module]) -> None:
        self.runs: list[_Run] = []
        self.calls: list[_Run] = []
        """Of modules that may hold all others."""
        self.nodes: dict[_Port, Any] = {}
        """Of the graph, at each port."""
        self._clock = 0
        self._open: list[_Run] = []
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
        for handle in self._handles:
            handle.remove()

    def _starter(self, name: str) -> Callable[..., None]:
        def start(module: nn.Module, args: Any) -> None:
            self._clock += 1
            self._open.append(_Run(name, self._clock))

        return start

    def _close(self) -> _Run:
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

    def _labelled(self, values: Any, run: _Run, enters: bool) -> Any:
        done: dict[int, Tensor] = {}
        for index, x in enumerate(differentiable_tensors(values)):
            if x.requires_grad and torch.is_grad_enabled():
                port = _Port(run, enters, index)
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


class _Sizes(NamedTuple):
    """Shapes of what entered and left modules, by module and place, of each run."""

    inputs: dict[tuple[str, int], list[torch.Size]]
    outputs: dict[tuple[str, int], list[torch.Size]]


def _in_mode(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    taps: Mapping[str, nn.Module],
    chosen: frozenset[str],
    args: Any,
    kwargs: Any,
    mode: str,
) -> Findings:
    watched = {**layers, **taps}
    calls = dict(_above(model, list(watched)))

    def run(extra: int, dim: int) -> tuple[_Recorder, list[Tensor]]:
        with undisturbed(model), _all_learning(model), allowing_requires_grad():
            model.train(mode == "train")
            more = tree_map_only(Tensor, _grower(extra, dim, _batch_size(args, kwargs, dim)), (args, kwargs))
            more_args, more_kwargs = tree_map_only(Tensor, _leaf, more)
            recorder = _Recorder(calls, watched)
            try:
                output = model(*more_args, **more_kwargs)
            finally:
                recorder.remove()
            return recorder, list(_returned(output))

    extra = 0
    try:
        recorder, returned = run(0, 0)
    except Exception:
        if _batch_size(args, kwargs, 0) != 1:
            raise
        extra = 1  # BatchNorm in training mode refuses a batch of one
        recorder, returned = run(1, 0)
    graph = _Graph(recorder, returned, set(layers), set(taps), chosen)
    del returned
    recorder.nodes.clear()  # all that holds the graph, and with it the memory of a training step
    first = _Sizes(recorder.shapes(True), recorder.shapes(False))
    second = first
    if graph.outputs:
        second = _in_a_larger_batch(run, first, graph.outputs, extra, args, kwargs)
    return graph.findings(first, second, _entrance(recorder, list(calls)))


def _in_a_larger_batch(
    run: Callable[[int, int], tuple[_Recorder, list[Tensor]]],
    first: _Sizes,
    outputs: Sequence[Output],
    extra: int,
    args: Any,
    kwargs: Any,
) -> _Sizes:
    """The sizes of a run with more examples, in the dimension of inputs that most looks like the batch's."""
    best: tuple[int, _Sizes] | None = None
    problems: list[str] = []
    for dim in (0,) if extra else (0, 1):
        size = _batch_size(args, kwargs, dim)
        for more in (extra + 1, extra + size) if size else ():
            try:
                recorder, _ = run(more, dim)
            except Exception as error:
                sizes = f"{size + more} in place of {size + extra} in dimension {dim}"
                problems.append(f"with {sizes}: {type(error).__name__}: {error}")
                continue
            found = _Sizes(recorder.shapes(True), recorder.shapes(False))
            if all(found.outputs.get(o, first.outputs[o])[0] != first.outputs[o][0] for o in outputs):
                unchanged = sum(found.inputs.get(key, s)[0] == s[0] for key, s in first.inputs.items())
                if best is None or unchanged < best[0]:
                    best = unchanged, found
            break
        if best is not None and best[0] == 0:
            break
    if best is None:
        raise ValueError(
            "direct feedback: inputs= must be a batch that can grow, of a size that no other dimension has: "
            "the model was run with more examples, to see which dimension of its outputs is the batch's, and "
            + ("\n  ".join(["raised", *problems]) if problems else "the outputs kept their shapes")
        )
    return best[1]


def _batch_size(args: Any, kwargs: Any, dim: int) -> int:
    """The size of the first input in a dimension; 0 if none has so many."""
    tensors = (x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor))
    return next((x.shape[dim] for x in tensors if x.dim() > dim), 0)


def _above(model: nn.Module, names: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    """The modules that hold all modules of these names, from the outermost."""
    common = names[0].split(".") if names and names[0] else []
    for name in names:
        parts = name.split(".") if name else []
        common = [a for i, a in enumerate(common[: len(parts)]) if common[: i + 1] == parts[: i + 1]]
    for depth in range(len(common) + 1):
        name = ".".join(common[:depth])
        yield name, model.get_submodule(name)


def _entrance(found: _Recorder, names: Sequence[str]) -> str:
    for name in reversed(names):
        calls = [call for call in found.calls if call.name == name]
        if calls and all(any(call.holds(run) for call in calls) for run in found.runs):
            return name
    return ""


class _Graph:
    """Which ports lead to which, and what follows from that."""

    def __init__(
        self,
        found: _Recorder,
        returned: list[Tensor],
        layers: set[str],
        taps: set[str],
        chosen: frozenset[str],
    ) -> None:
        self._runs, self._calls, self._layers = found.runs, found.calls, layers
        self._before = {port: _nearest_ports(node, itself=False) for port, node in found.nodes.items()}
        self._ports = self._find_outputs([x.grad_fn for x in returned], taps, chosen)
        self.outputs = list(dict.fromkeys(Output(p.run.name, p.place) for p in self._ports))
        self._taps = taps | {output.layer for output in self.outputs}
        self._refuse_what_is_unseen()

    def findings(self, first: _Sizes, second: _Sizes, entrance: str) -> Findings:
        depends: dict[Output, set[TapInput]] = {output: set() for output in self.outputs}
        ends = set(self._ports)
        hidden: set[Output] = set()
        for port in self._ports:
            for met in self._behind([port]):
                if met in ends and met.run.name != port.run.name:
                    hidden.add(Output(met.run.name, met.place))
                if met.enters and met.run.name in self._taps:
                    depends[Output(port.run.name, port.place)].add(TapInput(met.run.name, met.place))
        outputs = _same_in_all(first.outputs, second.outputs, set(self.outputs))
        inputs = _same_in_all(first.inputs, second.inputs, set().union(*depends.values()))
        return Findings(
            {output: outputs[output] for output in self.outputs},
            {TapInput(*key): shapes for key, shapes in inputs.items()},
            frozenset(TapInput(*key) for key in first.inputs.keys() - inputs.keys()),
            {output: frozenset(found) for output, found in depends.items()},
            frozenset(hidden),
            dict.fromkeys(run.name for run in self._runs if run.outputs),
            entrance,
            self._runs_once(entrance),
        )

    def _find_outputs(self, returned: list[Any], taps: set[str], chosen: frozenset[str]) -> list[_Port]:
        """The ports of layers that reach what the model returns, or that no other layer builds on.

        The one that ends last comes first. Of layers that reach one returned tensor, as along the shortcuts
        of a residual network, those count that no other of them builds on.
        """
        layer_runs = [run for run in self._runs if run.name in self._layers and run.outputs]
        behind = {run: self._runs_behind(run) for run in layer_runs}
        found: dict[_Port, None] = {}
        for node in returned:
            hits = self._layers_next_to(node, taps)
            runs = {port.run for port in hits}
            for port in hits:
                if not any(port.run in behind[run] for run in runs):
                    found[port] = None
        used = set().union(*behind.values()) if behind else set()
        reached = {port.run for port in found}
        for run in layer_runs:
            if run not in used and run not in reached:
                found |= {_Port(run, False, index): None for index in run.outputs}
        if chosen:
            found = {port: None for port in found if port.run.name in chosen}
            reached = {port.run for port in found}
            hidden = [run for run in layer_runs if run.name in chosen and run not in reached]
            found |= {_Port(run, False, index): None for run in hidden for index in run.outputs}
        last = max((port.run.end for port in found), default=0)
        return sorted(found, key=lambda port: (port.run.end != last, port.run.end, port.place))

    def _layers_next_to(self, node: Any, taps: set[str]) -> list[_Port]:
        hits, queue, seen = [], _nearest_ports(node), set()
        while queue:
            port = queue.pop()
            if port in seen:
                continue
            seen.add(port)
            if not port.enters and port.run.name in self._layers:
                hits.append(port)
            elif not (port.enters and port.run.name in taps):
                queue.extend(self._before.get(port, ()))
        return hits

    def _runs_behind(self, run: _Run) -> set[_Run]:
        ports = [_Port(run, False, index) for index in run.outputs]
        found = {port.run for port in self._behind(ports)}
        return {other for other in found if other is not run and not run.holds(other)}

    def _behind(self, ports: list[_Port], stop: Callable[[_Port], bool] = lambda _: False) -> set[_Port]:
        """All ports that lead to these, but for what lies behind those at which to stop."""
        queue = [before for port in ports for before in self._before.get(port, ())]
        found: set[_Port] = set()
        while queue:
            port = queue.pop()
            if port not in found and not stop(port):
                found.add(port)
                queue.extend(self._before.get(port, ()))
        return found

    def _refuse_what_is_unseen(self) -> None:
        """A tapped module's output must depend on what came before through its tensor inputs only."""
        for run in self._runs:
            if run.name not in self._taps:
                continue
            ports = [_Port(run, False, index) for index in run.outputs]
            own = {_Port(run, True, index) for index in run.inputs}
            for port in self._behind(ports, stop=own.__contains__):
                if port.run is not run and not run.holds(port.run):
                    raise ValueError(
                        f"direct feedback: {run.name or 'the model itself'!r} reads what {port.run.name!r} "
                        "makes in another way than by tensors in its arguments (an attribute, an object of a "
                        "class that torch.utils._pytree does not know), so that its inputs cannot be cut "
                        "off: tap other modules, DirectFeedback(taps=...)"
                    )

    def _runs_once(self, entrance: str) -> bool:
        calls = [call for call in self._calls if call.name == entrance]
        for call in calls:
            names = [run.name for run in self._runs if call.holds(run) and run.name in self._taps]
            ends = [name for name in names if name in {output.layer for output in self.outputs}]
            several = len(self.outputs) > 1
            if len(set(ends)) < len(ends) or (several and len(set(names)) < len(names)):
                return False
        return True


def _nearest_ports(node: Any, itself: bool = True) -> list[_Port]:
    """The ports met first on all ways back from a node."""
    found: list[_Port] = []
    queue, seen = [node], set()
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        port = getattr(node, "port", None)
        if isinstance(port, _Port) and (itself or len(seen) > 1):
            found.append(port)
        else:
            queue.extend(before for before, _ in node.next_functions)
    return found


def _same_in_all(
    first: Mapping[tuple[str, int], list[torch.Size]],
    second: Mapping[tuple[str, int], list[torch.Size]],
    wanted: set[Any],
) -> dict[Any, Shapes]:
    found = {}
    for key in (key for key in first if key in wanted):
        shapes, larger = set(first[key]), set(second.get(key, first[key]))
        if len(shapes) > 1 or len(larger) > 1 or len(first[key][0]) != len(next(iter(larger))):
            sizes = ", ".join(str(tuple(shape)) for shape in first[key])
            raise ValueError(
                f"direct feedback: {key[0]!r} runs on tensors of several sizes, {sizes}, and one B fits one "
                "size: tap modules that hold all its runs, DirectFeedback(taps=...)"
            )
        found[key] = Shapes(shapes.pop(), larger.pop())
    return found


def _merged(a: Findings, b: Findings) -> Findings:
    """What either has; the first counts where both have it."""
    return Findings(
        a.outputs | {output: b.outputs[output] for output in b.outputs.keys() - a.outputs.keys()},
        b.inputs | a.inputs,
        (a.idle | b.idle) - a.inputs.keys() - b.inputs.keys(),
        {o: a.depends.get(o, frozenset()) | b.depends.get(o, frozenset()) for o in a.depends | b.depends},
        a.hidden | b.hidden,
        a.ran | b.ran,
        min(a.entrance, b.entrance, key=len),
        a.once and b.once,
    )


def _returned(output: Any) -> Iterator[Tensor]:
    """The tensors in usual containers: what else a model returns, caches say, is not for the loss."""
    if isinstance(output, Tensor):
        if output.requires_grad:
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _returned(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _returned(value)


def _grower(extra: int, dim: int, size: int) -> Callable[[Tensor], Tensor]:
    def grow(x: Tensor) -> Tensor:
        if extra == 0 or x.dim() <= dim or x.shape[dim] != size:
            return x
        return torch.cat([x, *[x.narrow(dim, 0, 1)] * extra], dim)

    return grow


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_() if x.is_floating_point() else x


@contextmanager
def _all_learning(model: nn.Module) -> Iterator[None]:
    """Frozen parameters take gradients too, so that the graph holds all that may learn later."""
    before = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for p, _ in before:
            if p.is_floating_point():
                p.requires_grad_(True)
        yield
    finally:
        for p, flag in before:
            p.requires_grad_(flag)
