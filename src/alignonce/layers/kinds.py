"""Which kind of feedback layer stands for a class of layers: a registry, by plain class.

The classes of other packages are known to integrations, each of which is imported when such a class turns up.
"""

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from alignonce.layers.base import FeedbackLayer

__all__ = [
    "computes_like",
    "empty_layer",
    "feedback_class",
    "forward_weight_names",
    "known_kind",
    "layer_kind",
    "read_past_forward",
    "register_kind",
]


def forward_weight_names(layer: nn.Module) -> Iterator[str]:
    """Names of the forward weights that a layer (plain or with feedback) of a known kind has."""
    kind = layer_kind(type(layer))
    if kind is not None:
        yield from kind.present_names(layer)


def layer_kind(cls: type[nn.Module], *, norms: bool = False) -> "type[FeedbackLayer] | None":
    """The feedback layer that can stand for a class and its subclasses, whatever their forward.

    Norm layers count only with ``norms``.
    """
    kinds = (_KINDS.get(base) or _integrated_kind(base) for base in cls.__mro__)
    kind = next((kind for kind in kinds if kind is not None), None)
    return None if kind is not None and kind.is_norm and not norms else kind


def known_kind(plain_class: type[nn.Module]) -> "type[FeedbackLayer] | None":
    """The kind that stands for exactly this class."""
    return _KINDS.get(plain_class)


def computes_like(cls: type[nn.Module], kind: "type[FeedbackLayer]") -> bool:
    """Return whether a subclass computes its forward value as the plain class of ``kind`` does."""
    return all(getattr(cls, m) is getattr(kind.plain_class, m) for m in kind.overridable)


def feedback_class(cls: type[nn.Module]) -> "type[FeedbackLayer]":
    """The feedback layer for exactly this class; made at the first call for a user's own subclass."""
    kind = layer_kind(cls, norms=True)
    if kind is None:
        raise ValueError(f"{cls.__name__} is not a layer that can carry a feedback weight")
    if kind.plain_class is not cls:
        members = {"plain_class": cls, "__module__": cls.__module__}
        kind = register_kind(type(f"Feedback{cls.__name__}", (kind, cls), members))
    return kind


def register_kind(kind: "type[FeedbackLayer]") -> "type[FeedbackLayer]":
    """Make a kind of feedback layer known to the conversion; usable as a decorator."""
    _KINDS[kind.plain_class] = kind
    return kind


def read_past_forward(cls: type[nn.Module]) -> frozenset[str]:
    """Names of the layers in modules of a class whose weights it reads itself, without calling the layers."""
    integration = _integration(cls)
    return frozenset() if integration is None else integration.read_past_forward(cls)


def _integrated_kind(cls: type) -> "type[FeedbackLayer] | None":
    """The kind for a class of another package, whose integration is imported when such a class turns up.

    By the class and not by the user's call, so that it works in unpickling too.
    """
    integration = _integration(cls)
    made_already = hasattr(cls, "plain_class")  # a feedback layer bears its plain class's module's name
    return None if integration is None or made_already else integration.kind_of(cls)


def _integration(cls: type) -> Any:
    """The module that knows the classes of another package; None if there is none for it."""
    name = _INTEGRATIONS.get(cls.__module__.partition(".")[0])
    return None if name is None else importlib.import_module(name)


def empty_layer(plain_class: type[nn.Module]) -> "FeedbackLayer":
    """A feedback layer for this class, without anything: what copies and unpickled layers begin as."""
    cls = feedback_class(plain_class)
    return cls.__new__(cls)


_INTEGRATIONS = {
    "spikingjelly": "alignonce.layers.libraries.spikingjelly",
    "timm": "alignonce.layers.libraries.timm",
    "torch_geometric": "alignonce.layers.libraries.torch_geometric",
    "transformers": "alignonce.layers.libraries.transformers",
}


_KINDS: dict[type, "type[FeedbackLayer]"] = {}
