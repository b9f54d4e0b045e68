"""Running a model to learn what direct feedback must know of it.

The graph of one run says which layers are outputs, and which inputs each depends on (direct_graph.py). A
second run with more examples says by its shapes which dimension is the batch's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, cat, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from alignonce.direct.graph import Findings, Graph, merged
from alignonce.direct.labels import Output, Recorder, Sizes
from alignonce.undisturbed import allowing_requires_grad, undisturbed

__all__ = ["trace"]


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
        found = merged(found, other) if other.ran.keys() - found.ran.keys() else found
    return found


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

    def run(extra: int, dim: int) -> tuple[Recorder, list[Tensor]]:
        with undisturbed(model), _all_learning(model), allowing_requires_grad():
            model.train(mode == "train")
            more = tree_map_only(Tensor, _grower(extra, dim, _batch_size(args, kwargs, dim)), (args, kwargs))
            more_args, more_kwargs = tree_map_only(Tensor, _leaf, more)
            recorder = Recorder(calls, watched)
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
    graph = Graph(recorder, returned, set(layers), set(taps), chosen)
    del returned
    recorder.nodes.clear()  # all that holds the graph, and with it the memory of a training step
    first = Sizes(recorder.shapes(True), recorder.shapes(False))
    second = first
    if graph.outputs:
        second = _in_a_larger_batch(run, first, graph.outputs, extra, args, kwargs)
    return graph.findings(first, second, _entrance(recorder, list(calls)))


def _in_a_larger_batch(
    run: Callable[[int, int], tuple[Recorder, list[Tensor]]],
    first: Sizes,
    outputs: Sequence[Output],
    extra: int,
    args: Any,
    kwargs: Any,
) -> Sizes:
    """The sizes of a run with more examples, in the dimension of inputs that most looks like the batch's."""
    best: tuple[int, Sizes] | None = None
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
            found = Sizes(recorder.shapes(True), recorder.shapes(False))
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


def _entrance(found: Recorder, names: Sequence[str]) -> str:
    for name in reversed(names):
        calls = [call for call in found.calls if call.name == name]
        if calls and all(any(call.holds(run) for call in calls) for run in found.runs):
            return name
    return ""


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
        return cat([x, *[x.narrow(dim, 0, 1)] * extra], dim)

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
