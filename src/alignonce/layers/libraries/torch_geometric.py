"""The linear layer of PyTorch Geometric, which derives from no layer of PyTorch's.

Imported by the first look at a module of a class from ``torch_geometric``, without a call by the user.
"""

from torch import nn

from alignonce.layers.base import FeedbackLayer
from alignonce.layers.equivalents import register_equivalent

__all__ = ["kind_of", "read_past_forward"]


def kind_of(cls: type) -> type[FeedbackLayer] | None:
    """The kind of feedback layer for a class of the package, exactly; None if it needs none of its own."""
    if cls.__name__ == "Linear" and cls.__module__ == "torch_geometric.nn.dense.linear":
        return register_equivalent(cls, nn.Linear)
    return None


def read_past_forward(cls: type[nn.Module]) -> frozenset[str]:
    """Names of layers whose weights a class reads without calling them: none are known."""
    return frozenset()
