"""The layers of the ``transformers`` package that are not PyTorch's own.

Imported by the first look at a module of a class from ``transformers``, without a call by the user.
"""

import inspect
import re
from functools import cache

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from alignonce.formats.base import DECOMPRESSED
from alignonce.formats.compressed import CompressedFeedback, HeldFeedback
from alignonce.layers import functional
from alignonce.layers.base import FeedbackLayer
from alignonce.layers.equivalents import calls_base_only, register_equivalent
from alignonce.layers.kinds import known_kind, register_kind
from alignonce.layers.libraries.transformers_experts import experts_kind
from alignonce.layers.modes import runs_exactly
from alignonce.layers.norms import FeedbackNorm, norm_kind

__all__ = ["FeedbackConv1D", "kind_of", "read_past_forward"]

# LlamaRMSNorm, T5LayerNorm, MambaRMSNormGated, Sam2LayerNorm, ...: each model has a class of its own. A norm
# that scales its input first, and then normalises, is not linear in its scale.
_NORM = re.compile(r"^(?!.*InputScaled).*Norm(Gated|1d|2d|3d|1P)?$")


_CALLED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class FeedbackConv1D(FeedbackLayer, Conv1D):
    """GPT-2's ``Conv1D``, linear with W of shape (in_features, out_features), with a feedback weight."""

    plain_class = Conv1D
    feedback: HeldFeedback

    @classmethod
    def multiplication_of(cls, layer: nn.Module, feedback: CompressedFeedback) -> str:
        """As the base does, but that only low rank and its like can be transposed as they are."""
        factors = feedback.format.factors(feedback.tensors)
        return DECOMPRESSED if factors is None else super().multiplication_of(layer, feedback)

    def forward(self, x: Tensor) -> Tensor:
        """Map (*, in_features) to (*, out_features)."""
        if runs_exactly(self):
            return super().forward(x)
        return functional.linear(x, self.weight.t(), self.feedback.t(), self.bias)


class _FeedbackOwnNorm(FeedbackNorm):
    @classmethod
    def weight_names_of(cls, layer: nn.Module) -> tuple[str, ...]:
        # With other parameters than these it is no plain norm layer, whatever its name.
        return cls.weight_names if layer._parameters.keys() <= {"weight", "bias"} else ()


def kind_of(cls: type) -> type[FeedbackLayer] | None:
    """The kind of feedback layer for a class of the package, exactly; None if it needs none of its own."""
    if cls is Conv1D:
        return FeedbackConv1D
    if not issubclass(cls, nn.Module):
        return None
    if _NORM.search(cls.__name__):
        return norm_kind(cls, _FeedbackOwnNorm)
    if cls.__name__ == "FalconLinear":
        return register_equivalent(cls, nn.Linear)
    base = next((base for base in cls.__mro__ if known_kind(base) is not None), None)
    if base is not None and base in _CALLED and calls_base_only(cls):  # causal convolutions, routers
        return register_equivalent(cls, base, calls_base=True)
    return experts_kind(cls)


@cache
def read_past_forward(cls: type[nn.Module]) -> frozenset[str]:
    """Names of layers whose weights a class of the package hands to a kernel, without ever calling them.

    Mixers of Mamba and its kin, whose convolution is a kernel of its own, and others. They are known by the
    code of their forward.
    """
    try:
        code = inspect.getsource(cls.forward)
    except (OSError, TypeError):  # classes without a file
        return frozenset()
    read, called = (
        frozenset(re.findall(pattern, code)) for pattern in (r"self\.(\w+)\.weight\b", r"self\.(\w+)\(")
    )
    return read - called


register_kind(FeedbackConv1D)
