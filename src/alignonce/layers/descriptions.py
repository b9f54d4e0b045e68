"""The feedback weights of a layer as plain values and tensors, and back: what a file of them holds."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from alignonce.formats.compressed import CompressedFeedback, HeldFeedback
from alignonce.layers.base import FeedbackLayer, feedback_name
from alignonce.layers.kinds import layer_kind
from alignonce.rules.descriptions import described, rebuilt

__all__ = ["describe_layer", "held_by", "misfits_of"]


def describe_layer(name: str, layer: FeedbackLayer, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What is to be known of a layer; adds its tensors, shared ones once."""
    names_of = {id(tensor): known for known, tensor in tensors.items()}
    weights = {}
    for weight_name in layer.present_names(layer):
        attribute = feedback_name(weight_name)
        feedback = getattr(layer, attribute)
        if isinstance(feedback, CompressedFeedback):
            parts = {
                f"{attribute}.{n}": t for n, t in zip(feedback.format.names, feedback.tensors, strict=True)
            }
            format = described(feedback.format)
        else:
            parts, format = {attribute: feedback}, None
        keys = []
        for part, tensor in parts.items():
            key = names_of.setdefault(id(tensor), f"{name}.{part}".removeprefix("."))
            tensors[key] = tensor
            keys.append(key)
        shape = list(getattr(layer, weight_name).shape)
        weights[weight_name] = {"shape": shape, "format": format, "tensors": keys}
    return {"kind": _kind_of(layer), "rule": described(layer.learning_rule), "weights": weights}


def misfits_of(name: str, saved: Mapping[str, Any], module: nn.Module | None) -> Iterator[str]:
    """Why a layer of the file does not fit a module."""
    where = name or "(the model itself)"
    if module is None:
        yield f"{where} ({saved['kind']}): the model has no such layer"
    elif _kind_of(module) != saved["kind"]:
        yield f"{where}: {saved['kind']} in the file, {_kind_of(module)} in the model"
    else:
        kind = layer_kind(type(module), norms=True)
        present = set() if kind is None else set(kind.present_names(module))
        for weight_name in sorted(present ^ saved["weights"].keys()):
            yield f"{where}: {weight_name} in the {'model' if weight_name in present else 'file'} only"
        for weight_name in sorted(present & saved["weights"].keys()):
            shape = tuple(saved["weights"][weight_name]["shape"])
            if shape != (found := tuple(getattr(module, weight_name).shape)):
                yield f"{where}: {weight_name} of shape {shape} in the file, {found} in the model"


def held_by(
    layers: Mapping[str, Any], modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]
) -> Iterator[tuple[str, dict[str, HeldFeedback]]]:
    """The feedback weights of each layer by weight's name; those of one forward weight are one."""
    made: dict[Any, HeldFeedback] = {}
    for name, layer in layers.items():
        held = {}
        for weight_name, saved in layer["weights"].items():
            weight = getattr(modules[name], weight_name)
            key = (id(weight), *saved["tensors"])
            if key not in made:
                stored = [tensors[t].to(weight.device, copy=True) for t in saved["tensors"]]
                if saved["format"] is None:
                    made[key] = stored[0].to(weight.dtype)
                else:
                    format = rebuilt(saved["format"])
                    made[key] = CompressedFeedback.of(format, stored, tuple(saved["shape"]), weight.dtype)
            held[weight_name] = made[key]
        yield name, held


def _kind_of(module: nn.Module) -> str:
    """The name of the plain class that a layer is of, be it by a subclass of a user's own."""
    for base in reversed(type(module).__mro__):
        kind = layer_kind(base, norms=True)
        if kind is not None and kind.plain_class is base:
            return base.__name__
    return type(module).__name__
