"""B in 8, 4 or 1 bits for each element, multiplied as 8-bit integers."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from alignonce.formats.base import DECOMPRESSED, FeedbackFormat, Stored, needs_plain_operations, rescaled

__all__ = ["Int4", "Int8", "Sign"]

# Without these instructions PyTorch multiplies integers in a plain loop.
_CPU_MULTIPLIES_INTEGERS = torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()


class _Integers(FeedbackFormat):
    """B ≈ q·s: an integer q for each element, and a scale s for each column (in).

    A scale for each row (out) would stand inside the sum over out, where integers cannot be multiplied by
    it.
    """

    @abstractmethod
    def _codes(self, packed: Tensor, shape: tuple[int, int]) -> Tensor:
        """The integers q, (out, in), int8."""

    def dense(self, stored: Stored, shape: tuple[int, int]) -> Tensor:
        """q·s."""
        packed, scale = stored
        return self._codes(packed, shape).to(scale.dtype) * scale

    def product(self, error: Tensor, stored: Stored, shape: tuple[int, int]) -> Tensor:
        """Round each error to 8 bits of its own scale, and multiply integers, where that is fast.

        The rounding adds noise of about 1 % to the error, with a mean of nearly 0.
        """
        if not _multiplies_integers(error, shape):
            return super().product(error, stored, shape)
        packed, scale = stored
        step = error.abs().amax(1, keepdim=True).float().clamp_min_(1e-30).div_(127)
        rounded = (error / step).round_().to(torch.int8)
        result = torch._int_mm(rounded, self._codes(packed, shape))
        return result.to(scale.dtype).mul_(step).mul_(scale)

    def multiplication(self, device: torch.device) -> str:
        """How it multiplies on a device."""
        return "8-bit product" if _has_integer_kernels(device) else DECOMPRESSED


@dataclass(frozen=True)
class Int8(_Integers):
    """B in 8 bits, with a scale for each column: a quarter of float32, and of a cosine of nearly 1.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> summary = set_learning_rule(model, SoftAlignment(1.0), format=Int8())
        >>> all(row.cosine > 0.999 for row in summary.rows)
        True
    """

    names = ("packed", "scale")

    def compress(self, matrix: Tensor) -> Stored:
        """Round to -127 .. 127."""
        return _round(matrix, 127)

    def _codes(self, packed: Tensor, shape: tuple[int, int]) -> Tensor:
        return packed

    @property
    def label(self) -> str:
        """A few words for a table."""
        return "int8"


@dataclass(frozen=True)
class Int4(_Integers):
    """B in 4 bits, two to a byte, with a scale for each column: an eighth of float32.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> summary = set_learning_rule(model, SoftAlignment(1.0), format=Int4())
        >>> all(row.cosine > 0.98 for row in summary.rows)
        True
    """

    names = ("packed", "scale")

    def compress(self, matrix: Tensor) -> Stored:
        """Round to -7 .. 7; the first half of the elements in the low bits, the second in the high ones."""
        codes, scale = _round(matrix, 7)
        flat = (codes + 8).flatten().to(torch.uint8)
        if len(flat) % 2:
            flat = torch.cat([flat, flat.new_zeros(1)])
        low, high = flat.chunk(2)
        return low | (high << 4), scale

    def _codes(self, packed: Tensor, shape: tuple[int, int]) -> Tensor:
        codes = torch.cat([packed & 15, packed >> 4])[: shape[0] * shape[1]]
        return codes.view(torch.int8).sub(8).view(shape)

    @property
    def label(self) -> str:
        """A few words for a table."""
        return "int4"

    def multiplication(self, device: torch.device) -> str:
        """How it multiplies on a device."""
        return f"unpacked, {super().multiplication(device)}" if _has_integer_kernels(device) else DECOMPRESSED


@dataclass(frozen=True)
class Sign(_Integers):
    """The signs of B, one bit each, with one scale for all: a thirty-second of float32.

    Of a normally distributed B it has a cosine of sqrt(2 / π) = 0.80, of a uniform one sqrt(3) / 2 = 0.87.
    For ``SignSymmetry(once=True)`` it is exact.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> summary = set_learning_rule(model, SignSymmetry(once=True), format=Sign())
        >>> summary.extra_bytes  # a bit for each of 192 elements, and two scales of four bytes
        32
    """

    names = ("packed", "scale")

    def compress(self, matrix: Tensor) -> Stored:
        """Eight signs to a byte; 0 counts as positive."""
        ones = torch.ones((), dtype=matrix.dtype, device=matrix.device)
        return pack_bits(matrix >= 0), rescaled(ones, ones.expand(matrix.shape), matrix).reshape(1)

    def _codes(self, packed: Tensor, shape: tuple[int, int]) -> Tensor:
        bits = unpack_bits(packed, shape[0] * shape[1])
        return bits.view(torch.int8).mul(2).sub_(1).view(shape)

    @property
    def label(self) -> str:
        """A few words for a table."""
        return "sign"

    def multiplication(self, device: torch.device) -> str:
        """How it multiplies on a device."""
        return f"unpacked, {super().multiplication(device)}" if _has_integer_kernels(device) else DECOMPRESSED


def pack_bits(bits: Tensor) -> Tensor:
    """Booleans of any shape as (ceil(numel / 8),) bytes: element i + k·bytes in bit k of byte i."""
    flat = bits.flatten().to(torch.uint8)
    size = -(-len(flat) // 8)
    planes = torch.nn.functional.pad(flat, (0, 8 * size - len(flat))).view(8, size)
    packed = planes[0].clone()
    for k in range(1, 8):
        packed |= planes[k] << k
    return packed


def unpack_bits(packed: Tensor, count: int) -> Tensor:
    """The first ``count`` bits as (count,) bytes of 0 or 1."""
    return torch.cat([(packed >> k) & 1 for k in range(8)])[:count]


def _round(matrix: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    """Integers in -largest .. largest, (out, in), int8, and a scale for each column, (in,)."""
    scale = matrix.abs().amax(0).clamp_min(torch.finfo(torch.float32).tiny) / largest
    codes = (matrix / scale).round().clamp_(-largest, largest)
    return codes.to(torch.int8), rescaled(scale, codes * scale, matrix)


def _multiplies_integers(error: Tensor, shape: tuple[int, int]) -> bool:
    if needs_plain_operations() or not _has_integer_kernels(error.device):
        return False
    # What CUDA's kernel asks for.
    return error.device.type == "cpu" or (len(error) > 16 and not shape[0] % 8 and not shape[1] % 8)


def _has_integer_kernels(device: torch.device) -> bool:
    if device.type == "cpu":
        return _CPU_MULTIPLIES_INTEGERS
    return device.type == "cuda" and torch.version.cuda is not None
