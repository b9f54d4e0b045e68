"""What follows from the graph between labels: outputs, what each depends on, and what cannot be seen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignonce.direct.labels import Output, Port, Recorder, Run, Shapes, Sizes, TapInput

__all__ = ["Findings", "Graph", "merged"]


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


class Graph:
    """Which ports lead to which, and what follows from that."""

    def __init__(
        self,
        found: Recorder,
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

    def findings(self, first: Sizes, second: Sizes, entrance: str) -> Findings:
        """All that is known, given the sizes of two runs."""
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

    def _find_outputs(self, returned: list[Any], taps: set[str], chosen: frozenset[str]) -> list[Port]:
        """The ports of layers that reach what the model returns, or that no other layer builds on.

        The one that ends last comes first. Of layers that reach one returned tensor, as along the shortcuts
        of a residual network, those count that no other of them builds on.
        """
        layer_runs = [run for run in self._runs if run.name in self._layers and run.outputs]
        behind = {run: self._runs_behind(run) for run in layer_runs}
        found: dict[Port, None] = {}
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
                found |= {Port(run, False, index): None for index in run.outputs}
        if chosen:
            found = {port: None for port in found if port.run.name in chosen}
            reached = {port.run for port in found}
            hidden = [run for run in layer_runs if run.name in chosen and run not in reached]
            found |= {Port(run, False, index): None for run in hidden for index in run.outputs}
        last = max((port.run.end for port in found), default=0)
        return sorted(found, key=lambda port: (port.run.end != last, port.run.end, port.place))

    def _layers_next_to(self, node: Any, taps: set[str]) -> list[Port]:
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

    def _runs_behind(self, run: Run) -> set[Run]:
        ports = [Port(run, False, index) for index in run.outputs]
        found = {port.run for port in self._behind(ports)}
        return {other for other in found if other is not run and not run.holds(other)}

    def _behind(self, ports: list[Port], stop: Callable[[Port], bool] = lambda _: False) -> set[Port]:
        """All ports that lead to these, but for what lies behind those at which to stop."""
        queue = [before for port in ports for before in self._before.get(port, ())]
        found: set[Port] = set()
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
            ports = [Port(run, False, index) for index in run.outputs]
            own = {Port(run, True, index) for index in run.inputs}
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


def _nearest_ports(node: Any, itself: bool = True) -> list[Port]:
    """The ports met first on all ways back from a node."""
    found: list[Port] = []
    queue, seen = [node], set()
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        port = getattr(node, "port", None)
        if isinstance(port, Port) and (itself or len(seen) > 1):
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


def merged(a: Findings, b: Findings) -> Findings:
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
