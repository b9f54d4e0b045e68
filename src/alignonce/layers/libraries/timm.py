"""The layers of the ``timm`` package that compute what PyTorch's own layers compute.

Imported by the first look at a module of a class from ``timm``, without a call by the user.
"""

import re

from torch import nn

from alignonce.layers.base import FeedbackLayer
from alignonce.layers.equivalents import register_equivalent

__all__ = ["kind_of", "read_past_forward"]

# LayerNorm2d, RmsNormFp32, SimpleNorm, ...; those that end with an activation (LayerNormAct) are no norms.
_NORM = re.compile(r"^(Layer|Group|Rms|Simple)Norm(?!.*Act)")


def kind_of(cls: type) -> type[FeedbackLayer] | None:
    """The kind of feedback layer for a class of the package, exactly; None if it needs none of its own."""
    if cls.__name__ == "Linear" and issubclass(cls, nn.Linear):
        return register_equivalent(cls, nn.Linear)
    if issubclass(cls, nn.Module) and _NORM.search(cls.__name__):
        bases = nn.LayerNorm, nn.GroupNorm
        return register_equivalent(cls, next((base for base in bases if issubclass(cls, base)), nn.RMSNorm))
    return None


def read_past_forward(cls: type[nn.Module]) -> frozenset[str]:
    """Names of layers whose weights a class reads without calling them: none are known."""
    return frozenset()
