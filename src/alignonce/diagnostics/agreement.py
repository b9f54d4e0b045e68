"""How well two vectors agree in direction and in length."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Agreement", "agreement"]


@dataclass(frozen=True)
class Agreement:
    """Direction and length of a vector against those of a reference."""

    cosine: float
    """In [-1, 1]; NaN if one of the two is all zero."""
    angle_deg: float
    """In [0, 180] degrees; NaN if one of the two is all zero."""
    norm_ratio: float
    """The vector's norm divided by the reference's; NaN if both are all zero."""


def agreement(vector: Tensor | Sequence[Tensor], reference: Tensor | Sequence[Tensor]) -> Agreement:
    """Compare two tensors, or two lists of tensors, as flat vectors.

    The angle is 2·atan2(‖a − b‖, ‖a + b‖) of the unit vectors a and b: arccos loses half of the digits near
    0 and 180 degrees (Kahan, "How Futile are Mindless Assessments of Roundoff", section 12).

    Args:
        vector: any shape; computed in float64.
        reference: as many elements.

    Returns:
        The agreement of the vector with the reference.

    Raises:
        ValueError: if their numbers of elements differ.
    """
    a, b = _flat(vector), _flat(reference)
    if a.shape != b.shape:
        raise ValueError(f"vectors of different length: {a.numel()} and {b.numel()} elements")
    norm_a, norm_b = float(a.norm()), float(b.norm())
    if norm_a == 0 or norm_b == 0:
        ratio = math.nan if norm_a == norm_b else (math.inf if norm_b == 0 else 0.0)
        return Agreement(math.nan, math.nan, ratio)
    a, b = a / norm_a, b / norm_b
    angle = 2 * math.atan2(float((a - b).norm()), float((a + b).norm()))
    return Agreement(max(-1.0, min(1.0, float(a.dot(b)))), math.degrees(angle), norm_a / norm_b)


def _flat(tensors: Tensor | Sequence[Tensor]) -> Tensor:
    parts = [tensors] if isinstance(tensors, Tensor) else tensors
    return torch.cat([t.detach().reshape(-1).to("cpu", torch.float64) for t in parts])
