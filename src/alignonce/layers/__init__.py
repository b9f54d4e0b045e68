"""Layers that carry the error back through a feedback weight, one module for each family."""

from alignonce.layers import attention, linear_conv, norms, recurrent  # noqa: F401  (make their kinds known)
from alignonce.layers.base import FeedbackLayer, feedback_name
from alignonce.layers.kinds import feedback_class, forward_weight_names, layer_kind, register_kind
from alignonce.layers.linear_conv import (
    FeedbackBilinear,
    FeedbackConv1d,
    FeedbackConv2d,
    FeedbackConv3d,
    FeedbackConvTranspose1d,
    FeedbackConvTranspose2d,
    FeedbackConvTranspose3d,
    FeedbackLinear,
)

__all__ = [
    "FeedbackBilinear",
    "FeedbackConv1d",
    "FeedbackConv2d",
    "FeedbackConv3d",
    "FeedbackConvTranspose1d",
    "FeedbackConvTranspose2d",
    "FeedbackConvTranspose3d",
    "FeedbackLayer",
    "FeedbackLinear",
    "feedback_class",
    "feedback_name",
    "forward_weight_names",
    "layer_kind",
    "register_kind",
]
