"""What direct feedback puts into a model, worked out before anything changes in it."""

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from alignonce.direct.graph import Findings
from alignonce.direct.hooks import Routes
from alignonce.direct.install import Plan, Tap
from alignonce.direct.labels import Output, TapInput
from alignonce.direct.matrices import Action, action_of, size
from alignonce.direct.trace import trace
from alignonce.layers.kinds import layer_kind
from alignonce.rules.base import generator_for
from alignonce.rules.direct import DirectFeedback

__all__ = ["plan_direct_feedback"]


def plan_direct_feedback(model: nn.Module, rule: DirectFeedback, args: Any, kwargs: Any) -> Plan:
    """Run a model to learn its shapes and outputs, and make all B; nothing in the model changes.

    Args:
        model: the model; its own direct feedback, if it has any, must be switched to exact gradients.
        rule: the settings.
        args: positional arguments of a forward pass.
        kwargs: keyword arguments of a forward pass.

    Raises:
        ValueError: if no module fits ``rule.taps``, none of them or no layer runs on these inputs, B would
            be too large, or examples cannot be told apart (see :func:`alignonce.direct.trace.trace`).
    """
    layers, tapped = _layers(model), _tapped_modules(model, rule)
    chosen = (
        () if rule.outputs == "returned" else _fitting(layers, rule.outputs, "outputs", "layer with weights")
    )
    found = trace(model, layers, tapped, frozenset(chosen), args, kwargs)
    if not found.outputs:
        raise ValueError(
            "direct feedback: no layer with weights ran on inputs with gradients, so that there is no "
            "output; in a reentrant checkpoint none does: use checkpoint(..., use_reentrant=False)"
        )
    if not tapped.keys() & found.ran:
        raise ValueError(f"taps: none of {', '.join(tapped)} ran on inputs")
    modules = layers | tapped
    tapped |= {output.layer: layers[output.layer] for output in found.outputs}
    matrices = _matrices(modules, found)
    _check_size(model, modules, matrices, rule.max_bytes)

    outputs = list(found.outputs)
    taps = []
    for name in (name for name in found.ran if name in tapped):
        buffers: dict[str, Tensor] = {}
        routes: Routes = {}
        for input in sorted(key for key in {*found.inputs, *found.idle} if key.module == name):
            routes[input.place] = ()
            for number, (action, shape) in matrices.get(input, {}).items():
                buffer = _buffer_name(input.place, number)
                key = f"{name}/{input.place}" + _key_of(outputs[number], number)
                buffers[buffer] = _random_feedback(rule, key, shape).to(*_home(tapped[name], model))
                routes[input.place] += ((number, buffer, action),)
        taps.append(Tap(name, tapped[name], buffers, routes))
    numbers: dict[str, dict[int, int]] = {}
    for number, output in enumerate(outputs):
        numbers.setdefault(output.layer, {})[output.place] = number
    return Plan(
        tuple(taps),
        tuple((layers[name], places) for name, places in numbers.items()),
        frozenset(number for number, output in enumerate(outputs) if output in found.hidden),
        tuple(_unseen(modules, tapped, found)),
        model.get_submodule(found.entrance),
        found.once,
    )


_Matrices = dict[TapInput, dict[int, tuple[Action, tuple[int, int]]]]
"""Of each tapped input, by the number of the output: how B acts, and its shape."""


def _matrices(modules: Mapping[str, nn.Module], found: Findings) -> _Matrices:
    matrices: _Matrices = {}
    for number, (output, shapes) in enumerate(found.outputs.items()):
        for input in sorted(found.depends[output]):
            entered = found.inputs[input]
            action = action_of(modules[output.layer], shapes, modules[input.module], entered)
            if action is None:
                raise ValueError(
                    f"direct feedback: in a larger batch the input of {input.module!r} grows from "
                    f"{tuple(entered.first)} to {tuple(entered.second)}, the output of {output.layer!r} from "
                    f"{tuple(shapes.first)} to {tuple(shapes.second)}. The batch is not a dimension of its "
                    "own in both, so the examples of one cannot be found in the other. Tap modules in which "
                    "it is (whole blocks, say): DirectFeedback(taps=...)"
                )
            matrices.setdefault(input, {})[number] = action, size(action, shapes.first, entered.first)
    return matrices


def _check_size(
    model: nn.Module, modules: Mapping[str, nn.Module], matrices: _Matrices, max_bytes: int
) -> None:
    sizes: dict[str, int] = {}
    largest = (0, "", (0, 0))
    for input, actions in matrices.items():
        for _, shape in actions.values():
            needed = math.prod(shape) * _home(modules[input.module], model)[1].itemsize
            sizes[input.module] = sizes.get(input.module, 0) + needed
            largest = max(largest, (needed, input.module, shape))
    total = sum(sizes.values())
    if total > max_bytes:
        needed, name, shape = largest
        raise ValueError(
            f"direct feedback: B would take {_in_units(total)} in {len(sizes)} modules, and at most "
            f"{_in_units(max_bytes)} may be taken; the largest belongs to {name!r} and is {shape[0]:,} x "
            f"{shape[1]:,}, {_in_units(needed)}. Tap fewer modules, with smaller inputs, "
            f"DirectFeedback(taps=...), or allow more, DirectFeedback(max_bytes={total})"
        )


def _in_units(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,.4g} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """All layers with forward weights; the output projection of an attention is a part of it."""
    layers = {name: module for name, module in model.named_modules() if layer_kind(type(module))}
    for name, module in list(layers.items()):
        if isinstance(module, nn.MultiheadAttention):
            del layers[f"{name}.out_proj".removeprefix(".")]
    return layers


def _tapped_modules(model: nn.Module, rule: DirectFeedback) -> dict[str, nn.Module]:
    if rule.taps == "layers":
        return _layers(model)
    modules = {name: module for name, module in model.named_modules() if name}
    return _fitting(modules, rule.taps, "taps", "module; 'layers' taps every layer with weights")


def _fitting(
    modules: Mapping[str, nn.Module], patterns: str | Sequence[str], argument: str, what: str
) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        fitting = {name: module for name, module in modules.items() if fnmatchcase(name, pattern)}
        if not fitting:
            raise ValueError(f"{argument}: {pattern!r} matches no {what}")
        found |= fitting
    return found


def _unseen(
    modules: Mapping[str, nn.Module], tapped: Mapping[str, nn.Module], found: Findings
) -> list[tuple[str, nn.Module]]:
    """Modules that did not run, but for those within a tapped one, whose errors are not ours."""
    return [
        (name, module)
        for name, module in modules.items()
        if name not in found.ran
        and not any(name.startswith(f"{other}.") for other in tapped if other in found.ran)
    ]


def _key_of(output: Output, number: int) -> str:
    """What tells B's random numbers from those of the first output."""
    return f"/{output.layer}/{output.place}" if number else ""


def _random_feedback(rule: DirectFeedback, key: str, shape: tuple[int, int]) -> Tensor:
    noise = torch.randn(
        shape, dtype=torch.float64, device="cpu", generator=generator_for(f"{rule.seed}/{key}")
    )
    return noise / math.sqrt(shape[1])


def _home(module: nn.Module, model: nn.Module) -> tuple[torch.device, torch.dtype]:
    for parameter in [*module.parameters(), *model.parameters()]:
        if parameter.is_floating_point():
            return parameter.device, parameter.dtype
    return torch.device("cpu"), torch.float32


def _buffer_name(index: int, number: int) -> str:
    """Of B for a module's input, by its place, and an output, by its number."""
    name = f"direct_feedback_{index}" if index else "direct_feedback"
    return f"{name}_of_output_{number}" if number else name
