"""``format="auto"``: which feedback format pays for each layer, measured on this device."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from alignonce.conversion.layer_feedback import align
from alignonce.formats import FP8, Dense, FeedbackFormat, Int8, LowRank
from alignonce.layers.kinds import layer_kind
from alignonce.undisturbed import allowing_requires_grad, undisturbed

if TYPE_CHECKING:
    from torch.utils.benchmark import Timer

__all__ = ["Choice", "choose_formats"]

CANDIDATES: tuple[FeedbackFormat, ...] = (
    Dense(),
    Dense(torch.bfloat16),
    Int8(),
    FP8(),
    LowRank(1 / 4),
    LowRank(1 / 8),
    LowRank(1 / 4, dtype=torch.bfloat16),
    LowRank(1 / 8, dtype=torch.bfloat16),
)
"""Formats that have a product of their own on some device; the others are decompressed, which never pays."""

TOLERANCE = 0.1
"""One of the fastest is a format that takes at most this part of dense's time more than the fastest."""

_ROUNDS, _SECONDS = 3, 0.02

Probe = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
"""A layer, and the arguments of a call of it."""
Timing = Callable[[Mapping[FeedbackFormat, Probe]], dict[FeedbackFormat, float]]
"""Gives the seconds in which each layer sends an error back."""


class Choice(NamedTuple):
    """The format of a layer."""

    format: FeedbackFormat
    share: float
    """Time in which it sends an error back, over dense's; 1 where nothing could be measured."""


_chosen: dict[Any, Choice] = {}
"""What was measured in this process: equal layers get equal formats, now and later."""


def choose_formats(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    timed: Timing | None = None,
    known: dict[Any, Choice] = _chosen,
) -> dict[str, Choice]:
    """Choose for each layer the most aligned of the fastest formats.

    The model is run once, to see each layer's inputs. A layer of each sort (class, settings, shapes, dtypes,
    order in memory, device) then sends an error back in each candidate format. Those that take no more than
    the fastest and a tenth of dense's time count as the fastest; among them the one decides that keeps the
    highest cosine to the layer's weight. So dense stays where nothing saves a tenth. What was measured is
    kept until the process ends.

    Args:
        model: the model, which is left as it was.
        layers: its layers that are to have feedback weights, by name.
        args: positional arguments of a call of the model, with the batch size of training.
        kwargs: its keyword arguments.
        timed: takes the times; None is :func:`seconds_of`.
        known: what was measured before, by sort of layer; gets what is measured now.

    Returns:
        A choice for each layer. One that is not called as a module has that of the layer that it is part
        of (attention's output projection), else dense.
    """
    choices: dict[str, Choice] = {}
    calls = _calls(model, layers, args, kwargs)
    for name, layer in layers.items():
        if name in calls:
            key = _sort_of(layer, calls[name])
            if key not in known:
                known[key] = _measured(layer, *calls[name], seconds_of if timed is None else timed)
            choices[name] = known[key]
        else:
            choices[name] = choices.get(name.rpartition(".")[0], Choice(Dense(), 1.0))
    return choices


def _measured(
    layer: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    timed: Timing,
) -> Choice:
    probes: dict[FeedbackFormat, Probe] = {}
    cosines: dict[FeedbackFormat, float] = {}
    for format in CANDIDATES:
        # It shares the values of the layer's tensors, and learns nothing: what is timed is the error's way.
        shared: dict[int, Any] = {id(p): nn.Parameter(p.detach(), False) for p in layer.parameters()}
        shared |= {id(b): b for b in layer.buffers()}
        probe = copy.deepcopy(layer, shared)
        cosines[format] = align(probe, format)
        probes[format] = probe, args, kwargs
    seconds = timed(probes)
    limit = min(seconds.values()) + TOLERANCE * seconds[CANDIDATES[0]]
    best = max((f for f in CANDIDATES if seconds[f] <= limit), key=lambda f: cosines[f])
    return Choice(best, seconds[best] / seconds[CANDIDATES[0]])


def seconds_of(probes: Mapping[FeedbackFormat, Probe]) -> dict[FeedbackFormat, float]:
    """Time in which each layer sends an error back to its inputs, taken in turn, since machines drift."""
    timers = {format: _timer(*probe) for format, probe in probes.items()}
    rounds = [
        {format: timer.blocked_autorange(min_run_time=_SECONDS).median for format, timer in timers.items()}
        for _ in range(_ROUNDS)
    ]
    # Other load only ever adds to a time.
    return {format: min(times[format] for times in rounds) for format in probes}


def _timer(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Timer:
    # Here, for it brings setuptools with it, and takes longer to import than all of this library.
    from torch.utils.benchmark import Timer

    def differentiable(x: Tensor) -> Tensor:
        return x.detach().requires_grad_() if x.is_floating_point() else x

    args, kwargs = tree_map_only(Tensor, differentiable, (args, kwargs))
    with torch.enable_grad():
        output = type(layer).forward(layer, *args, **kwargs)  # without the user's hooks
    inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.requires_grad]
    output = next(y for y in tree_leaves(output) if isinstance(y, Tensor) and y.requires_grad)
    settings = {"output": output, "inputs": inputs, "error": output.detach(), "grad": torch.autograd.grad}
    return Timer(
        "grad(output, inputs, error, retain_graph=True, allow_unused=True)",
        globals=settings,
        num_threads=torch.get_num_threads(),
    )


def _calls(
    model: nn.Module, layers: Mapping[str, nn.Module], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    """Arguments of the first call of each layer in a run of the model."""
    calls: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def recorder(name: str) -> Callable[..., None]:
        return lambda _, args, kwargs: calls.setdefault(name, (args, kwargs)) and None

    handles = [m.register_forward_pre_hook(recorder(n), with_kwargs=True) for n, m in layers.items()]
    try:
        with undisturbed(model, "eval"), torch.no_grad(), allowing_requires_grad():
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _sort_of(layer: nn.Module, call: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    """What two layers have in common that take the same time."""
    kind = layer_kind(type(layer))
    assert kind is not None  # only layers of known kinds are converted
    tensors = [*layer.parameters(), *(x for x in tree_leaves(call) if isinstance(x, Tensor))]
    facts = tuple((t.shape, t.stride(), t.dtype, t.device) for t in tensors)
    device = tensors[0].device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return kind, kind.plain_class.extra_repr(layer), facts, autocast, torch.get_num_threads()
