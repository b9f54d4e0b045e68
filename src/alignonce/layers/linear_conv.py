"""Linear layers, bilinear ones and convolutions that carry the error back through a feedback weight."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from alignonce.formats import Dense
from alignonce.formats.base import DECOMPRESSED
from alignonce.formats.compressed import CompressedFeedback, HeldFeedback
from alignonce.layers import functional
from alignonce.layers.base import FeedbackLayer, random_like
from alignonce.layers.kinds import register_kind
from alignonce.layers.modes import runs_exactly

__all__ = [
    "FeedbackBilinear",
    "FeedbackConv1d",
    "FeedbackConv2d",
    "FeedbackConv3d",
    "FeedbackConvTranspose1d",
    "FeedbackConvTranspose2d",
    "FeedbackConvTranspose3d",
    "FeedbackLinear",
]


class _AnyFeedbackLinear(FeedbackLayer):
    """What ``nn.Linear`` and classes have in common that compute the same."""

    has_equivalents = True
    weight: Any
    bias: Any
    feedback: HeldFeedback

    @classmethod
    def sample_arguments(cls, layer: nn.Module) -> Iterator[tuple[Any, ...]]:
        yield (random_like(layer, (2, 3, layer.get_parameter("weight").shape[1])),)

    def forward(self, input: Tensor) -> Tensor:
        """Map (*, in_features) to (*, out_features)."""
        if runs_exactly(self):
            return super().forward(input)
        if input.is_nested:
            return _map_parts(self.forward, input)
        return functional.linear(input, self.weight, self.feedback, self.bias)


@register_kind
class FeedbackLinear(_AnyFeedbackLinear, nn.Linear):
    """``nn.Linear`` with a feedback weight."""

    plain_class = nn.Linear


@register_kind
class FeedbackBilinear(FeedbackLayer, nn.Bilinear):
    """``nn.Bilinear`` with a feedback weight."""

    plain_class = nn.Bilinear
    feedback: HeldFeedback

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        """Map (*, in1_features) and (*, in2_features) to (*, out_features)."""
        if runs_exactly(self):
            return super().forward(input1, input2)
        return functional.bilinear(input1, input2, self.weight, self.feedback, self.bias)


class _FeedbackAnyConv(FeedbackLayer, nn.modules.conv._ConvNd):
    has_equivalents = True
    feedback: HeldFeedback

    @classmethod
    def sample_arguments(cls, layer: nn.Module) -> Iterator[tuple[Any, ...]]:
        assert isinstance(layer, nn.modules.conv._ConvNd)
        sizes = [(k - 1) * d + 4 for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        yield (random_like(layer, (2, layer.in_channels, *sizes)),)

    @classmethod
    def multiplication_of(cls, layer: nn.Module, feedback: CompressedFeedback) -> str:
        if isinstance(feedback.format, Dense):
            return ""
        factors = feedback.format.factors(feedback.tensors)
        return DECOMPRESSED if factors is None or layer.groups != 1 else "two convolutions"


class _FeedbackConv(_FeedbackAnyConv):
    overridable = ("forward", "_conv_forward")

    def forward(self, input: Tensor) -> Tensor:
        if runs_exactly(self):
            return super().forward(input)
        return functional.conv(
            input, self.weight, self.feedback, self.bias,
            self.stride, self.padding, self.dilation, self.groups, self.padding_mode,
        )  # fmt: skip


@register_kind
class FeedbackConv1d(_FeedbackConv, nn.Conv1d):
    """``nn.Conv1d`` with a feedback weight."""

    plain_class = nn.Conv1d


@register_kind
class FeedbackConv2d(_FeedbackConv, nn.Conv2d):
    """``nn.Conv2d`` with a feedback weight."""

    plain_class = nn.Conv2d


@register_kind
class FeedbackConv3d(_FeedbackConv, nn.Conv3d):
    """``nn.Conv3d`` with a feedback weight."""

    plain_class = nn.Conv3d


class _FeedbackConvTranspose(_FeedbackAnyConv, nn.modules.conv._ConvTransposeNd):
    overridable = ("forward", "_output_padding")

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if runs_exactly(self):
            return super().forward(input, output_size)
        dims, padding = len(self.kernel_size), cast(tuple[int, ...], self.padding)  # numbers only, here
        output_padding = self._output_padding(
            input, output_size, list(self.stride), list(padding), list(self.kernel_size),
            dims, list(self.dilation),
        )  # fmt: skip
        return functional.conv_transpose(
            input, self.weight, self.feedback, self.bias,
            self.stride, padding, output_padding, self.groups, self.dilation,
        )  # fmt: skip


@register_kind
class FeedbackConvTranspose1d(_FeedbackConvTranspose, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` with a feedback weight."""

    plain_class = nn.ConvTranspose1d


@register_kind
class FeedbackConvTranspose2d(_FeedbackConvTranspose, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` with a feedback weight."""

    plain_class = nn.ConvTranspose2d


@register_kind
class FeedbackConvTranspose3d(_FeedbackConvTranspose, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` with a feedback weight."""

    plain_class = nn.ConvTranspose3d


def _map_parts(function: Callable[[Tensor], Tensor], nested: Any) -> Tensor:
    """Apply a function of rows to a nested tensor, whose own operations autograd functions do not know."""
    if nested.layout == torch.jagged:
        return torch.nested.nested_tensor_from_jagged(
            function(nested.values()), nested.offsets(), nested.lengths()
        )
    return torch.nested.as_nested_tensor([function(part) for part in nested.unbind()])
