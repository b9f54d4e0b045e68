"""The layers of the ``spikingjelly`` package: PyTorch's, applied to one time step or to all of them.

Imported by the first look at a module of a class from ``spikingjelly``, without a call by the user.
"""

from torch import nn

from alignonce.layers.base import FeedbackLayer
from alignonce.layers.equivalents import calls_base_only, register_equivalent
from alignonce.layers.kinds import known_kind

__all__ = ["kind_of", "read_past_forward"]


def kind_of(cls: type) -> type[FeedbackLayer] | None:
    """The kind of feedback layer for a class of the package, exactly; None if it needs none of its own."""
    for base in cls.__mro__:
        kind = known_kind(base)
        if kind is not None and kind.is_norm:
            return register_equivalent(cls, base)
        if kind is not None and calls_base_only(cls):
            return register_equivalent(cls, base, calls_base=True)
    return None


def read_past_forward(cls: type[nn.Module]) -> frozenset[str]:
    """Names of layers whose weights a class reads without calling them: none are known."""
    return frozenset()
