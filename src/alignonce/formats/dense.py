"""Every element of B, as it is or in fewer bits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from alignonce.formats.base import FeedbackFormat, Stored, check_dtype, dtype_name, gathered

__all__ = ["Dense"]


@dataclass(frozen=True)
class Dense(FeedbackFormat):
    """B as the learning rule made it.

    Args:
        dtype: None for that of the forward weight, also when that changes; or a floating-point dtype, in
            which products with the error are computed then. ``torch.bfloat16`` pays on GPUs and on CPUs with
            instructions for it, where it takes a third to a half of float32's time.

    Raises:
        ValueError: if ``dtype`` is not a floating-point dtype of 16 bits or more.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> summary = set_learning_rule(model, SoftAlignment(), format=Dense(torch.bfloat16))
        >>> summary.extra_bytes  # two bytes for each of 8 x 16 + 16 x 4 elements
        384
    """

    names = ("values",)
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        check_dtype(self.dtype)

    def compress(self, matrix: Tensor) -> Stored:
        """Round to the dtype."""
        return (matrix.to(self.dtype, copy=True),)

    def dense(self, stored: Stored, shape: tuple[int, int]) -> Tensor:
        """The stored matrix itself."""
        return gathered(stored[0])

    def product(self, error: Tensor, stored: Stored, shape: tuple[int, int]) -> Tensor:
        """One product in the stored dtype."""
        values = gathered(stored[0])
        return error.to(values.dtype) @ values

    @property
    def label(self) -> str:
        """A few words for a table."""
        return f"dense {dtype_name(self.dtype)}".rstrip()

    def multiplication(self, device: torch.device) -> str:
        """How it multiplies on a device."""
        return ""
