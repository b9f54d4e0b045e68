"""B with most elements left out."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from alignonce.formats.base import FeedbackFormat, Stored, rescaled
from alignonce.formats.dense import Dense
from alignonce.formats.integers import pack_bits, unpack_bits

__all__ = ["SemiStructured", "Sparse"]


class _Masked(FeedbackFormat):
    """The elements that are kept, in order, and one bit for each element that says whether it is.

    Saves memory only. PyTorch multiplies sparse matrices no faster than dense ones before nine elements in
    ten are left out.
    """

    keeps_dtype = False

    @abstractmethod
    def _kept(self, matrix: Tensor) -> Tensor:
        """Which elements to keep, booleans (out, in)."""

    def compress(self, matrix: Tensor) -> Stored:
        """Pick the elements to keep."""
        mask = self._kept(matrix)
        values = matrix[mask]
        return rescaled(values, values, matrix), pack_bits(mask)

    def dense(self, stored: Stored, shape: tuple[int, int]) -> Tensor:
        """The elements in their places, zeros around them."""
        values, packed = stored
        kept = unpack_bits(packed, shape[0] * shape[1]).bool()
        # Not masked_scatter, for which vmap has no rule.
        order = kept.cumsum(0).sub(1).clamp_min(0)
        return torch.where(kept, values[order], 0).view(shape)


@dataclass(frozen=True)
class Sparse(_Masked):
    """The largest elements of B, in size, at any place.

    Args:
        fraction: how many of the elements are kept, in (0, 1).

    Raises:
        ValueError: if ``fraction`` is not in (0, 1).

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> summary = set_learning_rule(model, SoftAlignment(1.0), format=Sparse(0.5))
        >>> all(0.8 < row.cosine < 1 for row in summary.rows)  # half of the elements are kept
        True
    """

    names = ("values", "mask")
    fraction: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise ValueError(f"fraction must be between 0 and 1, got {self.fraction!r}")

    def _kept(self, matrix: Tensor) -> Tensor:
        count = max(1, round(self.fraction * matrix.numel()))
        # By argsort and not by a threshold, so that the count is exact where elements are equal.
        order = matrix.abs().flatten().argsort(descending=True, stable=True)
        mask = torch.zeros(matrix.numel(), dtype=torch.bool, device=matrix.device)
        mask[order[:count]] = True
        return mask.view(matrix.shape)

    @property
    def label(self) -> str:
        """A few words for a table."""
        return f"sparse {self.fraction:g}"


@dataclass(frozen=True)
class SemiStructured(_Masked):
    """The two largest of each four neighbours in a column of B, the form that sparse tensor cores take.

    A matrix whose number of rows (out) cannot be divided by four is kept dense.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> summary = set_learning_rule(model, SoftAlignment(1.0), format=SemiStructured())
        >>> all(0.8 < row.cosine < 1 for row in summary.rows)  # two of each four elements are kept
        True
    """

    names = ("values", "mask")

    def for_shape(self, shape: tuple[int, int]) -> FeedbackFormat:
        """Itself, or :class:`Dense` where there are no groups of four."""
        return Dense() if shape[0] % 4 else self

    def _kept(self, matrix: Tensor) -> Tensor:
        groups = matrix.abs().reshape(-1, 4, matrix.shape[1])
        mask = torch.zeros_like(groups, dtype=torch.bool)
        mask.scatter_(1, groups.topk(2, dim=1).indices, True)
        return mask.view(matrix.shape)

    @property
    def label(self) -> str:
        """A few words for a table."""
        return "2 of 4"
