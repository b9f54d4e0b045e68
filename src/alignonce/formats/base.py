"""What a feedback format is: how a feedback weight that never changes is stored and multiplied."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["FeedbackFormat"]

Stored = tuple[Tensor, ...]
"""The tensors that stand for B, in the order of a format's ``names``."""


class FeedbackFormat(ABC):
    """How a fixed feedback weight B is stored and multiplied.

    A format sees each B as a matrix (out, in), its first dimension by all others: of a linear layer the
    weight itself, of a convolution (out_channels, in_channels / groups * kernel). A format is a value: it
    holds settings, never tensors.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> formats = {"0": LowRank(rank=2), "*": Dense(torch.bfloat16)}  # a format for each layer
        >>> [row.format for row in set_learning_rule(model, SoftAlignment(), format=formats).rows]
        ['rank 2, two products', 'dense bfloat16']
    """

    names: ClassVar[tuple[str, ...]]
    """Names of the stored tensors."""
    keeps_dtype: bool = True
    """Whether stored tensors keep their dtype when the model's is changed."""
    fits_errors: ClassVar[bool] = False
    """Whether :meth:`compress_for` makes use of the errors."""

    def for_shape(self, shape: tuple[int, int]) -> "FeedbackFormat":
        """The format that a matrix of this shape gets: this one, or another where this one makes no sense."""
        return self

    @abstractmethod
    def compress(self, matrix: Tensor) -> Stored:
        """Store a matrix.

        Args:
            matrix: B, (out, in), float32 or float64.

        Returns:
            Tensors on B's device that approximate B and have its norm.
        """

    def compress_for(self, errors: Tensor, matrix: Tensor) -> Stored:
        """Store a matrix that is to carry errors like these: by default, like any other.

        Args:
            errors: (N, out), a sample, in the matrix's dtype and on its device.
            matrix: B, (out, in), float32 or float64.

        Returns:
            Tensors on B's device that approximate B.
        """
        return self.compress(matrix)

    @abstractmethod
    def dense(self, stored: Stored, shape: tuple[int, int]) -> Tensor:
        """The matrix (out, in) that the stored tensors stand for, in a floating-point dtype."""

    def product(self, error: Tensor, stored: Stored, shape: tuple[int, int]) -> Tensor:
        """The error times the matrix, by the cheapest way there is on this device.

        Args:
            error: (N, out), in a floating-point dtype.
            stored: what :meth:`compress` returned.
            shape: (out, in).

        Returns:
            (N, in), in any floating-point dtype.
        """
        return error @ self.dense(stored, shape).to(error.dtype)

    def factors(self, stored: Stored) -> tuple[Tensor, Tensor] | None:
        """L (out, r) and R (r, in) with B = L·R, if B is stored so."""
        return None

    @property
    @abstractmethod
    def label(self) -> str:
        """A few words for a table."""

    def multiplication(self, device: torch.device) -> str:
        """How :meth:`product` multiplies on a device, in a few words for a table."""
        return DECOMPRESSED


DECOMPRESSED = "decompressed at each step"


def gathered(tensor: Tensor) -> Tensor:
    """A weight that is spread over processes (:mod:`alignonce.distributed`), whole; any other as it is.

    Args:
        tensor: a tensor; if it is a ``DTensor``, all processes that it is spread over must call this.

    Returns:
        A plain tensor.
    """
    # By the method and not by the class, whose import takes longer than that of the rest of this package.
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def rescaled(tensor: Tensor, approximation: Tensor, matrix: Tensor) -> Tensor:
    """``tensor`` times ‖matrix‖ / ‖approximation‖."""
    return tensor * (torch.linalg.vector_norm(matrix) / torch.linalg.vector_norm(approximation))


def needs_plain_operations() -> bool:
    """Return whether a transform of torch.func or forward mode is at work, where kernels lack rules."""
    return not torch.compiler.is_compiling() and (
        torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    )


def check_dtype(dtype: torch.dtype | None) -> None:
    """Refuse a dtype in which no product can be computed."""
    if dtype is not None and dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"dtype must be None or a floating-point dtype of 16 bits or more, got {dtype!r}")


def dtype_name(dtype: torch.dtype | None) -> str:
    """``float32`` for ``torch.float32``; empty for None."""
    return "" if dtype is None else str(dtype).removeprefix("torch.")
