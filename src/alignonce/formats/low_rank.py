"""B as a product of two thin matrices."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alignonce.formats.base import FeedbackFormat, Stored, check_dtype, dtype_name, rescaled
from alignonce.formats.dense import Dense

__all__ = ["LowRank"]

# Up to this smaller side the exact decomposition takes no more than a tenth of a second.
_EXACT_SIDE = 512
_ITERATIONS = 2
_EVERY_DIRECTION = 0.1
# Below this rank nothing is saved, but an output layer of ten classes would lose most of its error.
_LEAST_RANK = 16


@dataclass(frozen=True)
class LowRank(FeedbackFormat):
    """B ≈ L·R, its leading singular directions: the error goes through two thin products.

    L is (out, r) and R (r, in), so that both the bytes and the multiplications are r·(out + in) for
    out·in: a quarter for a square matrix of a rank of 1/8. A matrix for which that saves nothing is kept
    dense. Convolutions become two: one 1x1, one with the kernel.

    Given ``inputs``, ``set_learning_rule`` sends random errors back through the model once, and the factors
    keep what B does to such errors rather than to all: of the same rank, they carry the errors much better.

    Args:
        fraction: the rank, as a fraction in (0, 1) of the smaller side of the matrix, but at least 16 (or
            the smaller side, if that is less): what a narrow layer would save is nothing, and a classifier's
            output layer would lose the differences between its classes.
        rank: the rank itself, instead of ``fraction``.
        dtype: as in :class:`Dense`, for the factors.

    Raises:
        ValueError: if not exactly one of ``fraction`` and ``rank`` is given, or one is out of its range.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> summary = set_learning_rule(model, SoftAlignment(), format=LowRank(rank=2))
        >>> summary.extra_bytes  # 2 x (8 + 16) and 2 x (16 + 4) numbers of four bytes
        352
    """

    names = ("left", "right")
    fits_errors = True
    fraction: float | None = None
    rank: int | None = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if (self.fraction is None) == (self.rank is None):
            raise ValueError("LowRank needs either fraction= or rank=")
        if self.fraction is not None and not 0 < self.fraction < 1:
            raise ValueError(f"fraction must be between 0 and 1, got {self.fraction!r}")
        if self.rank is not None and (not isinstance(self.rank, int) or self.rank < 1):
            raise ValueError(f"rank must be a positive integer, got {self.rank!r}")
        check_dtype(self.dtype)

    @property
    def keeps_dtype(self) -> bool:  # type: ignore[override]
        """Whether the factors keep their dtype when the model's is changed."""
        return self.dtype is not None

    def for_shape(self, shape: tuple[int, int]) -> FeedbackFormat:
        """The rank for a matrix of this shape, or :class:`Dense` where two factors are no smaller."""
        rank = self.rank
        if rank is None:
            assert self.fraction is not None  # for the type checker: __post_init__ has seen to it
            rank = max(math.ceil(self.fraction * min(shape)), _LEAST_RANK)
        if rank * sum(shape) >= math.prod(shape):
            return Dense(self.dtype)
        return LowRank(rank=rank, dtype=self.dtype)

    def compress(self, matrix: Tensor) -> Stored:
        """Leading singular directions, of B's norm together."""
        left, right = _truncate(matrix, self._rank_for(matrix))
        return self._stored(left, rescaled(right, right, matrix))  # L is orthonormal: ‖L·R‖ = ‖R‖

    def compress_for(self, errors: Tensor, matrix: Tensor) -> Stored:
        """The L·R of this rank that does to the errors most nearly what B does, and as strongly."""
        left, right = _truncate_for(errors, matrix, self._rank_for(matrix))
        # The rows of R are orthonormal, so that ‖e·L·R‖ = ‖e·L‖.
        return self._stored(rescaled(left, errors @ left, errors @ matrix), right)

    def _rank_for(self, matrix: Tensor) -> int:
        fitted = self.for_shape((matrix.shape[0], matrix.shape[1]))
        if not isinstance(fitted, LowRank) or fitted.rank is None:
            raise ValueError(f"a matrix of {tuple(matrix.shape)} is smaller than two factors of it")
        return fitted.rank

    def _stored(self, *factors: Tensor) -> Stored:
        # Copies: a leading part of a larger matrix would keep all of it, and could not be saved.
        return tuple(f.to(self.dtype).clone(memory_format=torch.contiguous_format) for f in factors)

    def dense(self, stored: Stored, shape: tuple[int, int]) -> Tensor:
        """L·R."""
        left, right = stored
        return left @ right

    def product(self, error: Tensor, stored: Stored, shape: tuple[int, int]) -> Tensor:
        """Two products, in the factors' dtype if one was asked for, else in the error's."""
        dtype = self.dtype or error.dtype
        left, right = stored
        return (error.to(dtype) @ left.to(dtype)) @ right.to(dtype)

    def factors(self, stored: Stored) -> tuple[Tensor, Tensor]:
        """L and R."""
        left, right = stored
        return left, right

    @property
    def label(self) -> str:
        """A few words for a table."""
        rank = f"rank {self.rank}" if self.fraction is None else f"rank {self.fraction:g}"
        return f"{rank} {dtype_name(self.dtype)}".rstrip()

    def multiplication(self, device: torch.device) -> str:
        """How it multiplies on a device."""
        return "two products"


def _truncate(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """L (out, rank) with orthonormal columns and R (rank, in): the best L·R there is, or nearly.

    Large matrices: subspace iteration (Halko, Martinsson and Tropp 2011, arXiv 0909.4061, algorithm 4.4)
    without oversampling, each round shifted (Feng, Yu, Xie and Tang 2024, arXiv 2404.09276). For a random
    matrix, whose singular values hardly decay, that gives a cosine of 0.600 at rank 1/8 where the exact
    decomposition gives 0.613; weights with structure come closer.
    """
    if min(matrix.shape) <= _EXACT_SIDE:
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        return u[:, :rank], s[:rank, None] * v[:rank]
    # On the way, rounding does no harm: only the last two products decide how good the basis is used.
    rough = matrix.to(_rough_dtype(matrix))

    def times(factor: Tensor, other: Tensor) -> Tensor:
        return (factor @ other.to(factor.dtype)).to(matrix.dtype)

    generator = torch.Generator("cpu").manual_seed(0)
    start = torch.randn(matrix.shape[0], rank, device="cpu", generator=generator).to(matrix)
    basis = _orthonormal(times(rough.t(), start))
    shift = matrix.new_zeros(())
    for _ in range(_ITERATIONS):
        image = times(rough, basis)
        # MᵀM less a shift tells leading directions from others better than MᵀM does. No Ritz value of a basis
        # of r directions is above the r-th eigenvalue: half of it shifts no other direction to the lead.
        shift = torch.maximum(shift, torch.linalg.eigvalsh(image.t() @ image)[0] / 2)
        basis = _orthonormal(times(rough.t(), image) - shift * basis)
    left = _orthonormal(_orthonormal(matrix @ basis))  # once more, for what rounding left in the first
    return left, left.t() @ matrix


def _truncate_for(errors: Tensor, matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """L (out, rank) and R (rank, in) with orthonormal rows: the least ‖E·(W − L·R)‖, or nearly.

    That is W·V·Vᵀ, with V the leading eigenvectors of Wᵀ·C·W, C the covariance of the errors: the weighting
    that SVD-LLM (Wang et al. 2024, arXiv 2403.07378) gives a forward weight by its inputs, turned round. A
    tenth of the errors' mean variance is added in every direction, since their directions change in training
    and a sample may have fewer of them than the rank.
    """
    errors = errors / (torch.linalg.vector_norm(errors) / math.sqrt(matrix.shape[0]))  # Σe² = 1 for each unit
    generator = torch.Generator("cpu").manual_seed(0)
    basis = torch.randn(matrix.shape[1], rank, device="cpu", generator=generator).to(matrix)
    rough = _rough_dtype(matrix)
    rough_matrix, rough_errors = matrix.to(rough), errors.to(rough)
    for _ in range(_ITERATIONS):
        middle = rough_matrix @ basis.to(rough)
        middle = rough_errors.t() @ (rough_errors @ middle) + _EVERY_DIRECTION * middle
        # Twice, for what rounding leaves: some directions are a hundred times stronger than others.
        basis = _orthonormal(_orthonormal((rough_matrix.t() @ middle).to(matrix.dtype)))
    return matrix @ basis, basis.t()


def _orthonormal(basis: Tensor) -> Tensor:
    """A basis of the same span, by Cholesky, which takes a tenth of the time of Householder reflections."""
    triangle, failed = torch.linalg.cholesky_ex(basis.t() @ basis)
    if failed:  # nearly dependent columns: the matrix is of lower rank
        return torch.linalg.qr(basis)[0]
    return torch.linalg.solve_triangular(triangle.t(), basis, upper=True, left=False)


def _rough_dtype(matrix: Tensor) -> torch.dtype:
    """That in which products are fastest on the matrix's device."""
    return torch.bfloat16 if _multiplies_bfloat16(matrix.device) else matrix.dtype


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether products of bfloat16 matrices are faster than those of float32."""
    if device.type == "cpu":
        return torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported()
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
