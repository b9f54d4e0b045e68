"""B in 8-bit floating-point numbers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from alignonce.formats.base import DECOMPRESSED, FeedbackFormat, Stored, needs_plain_operations, rescaled

__all__ = ["FP8"]


@dataclass(frozen=True)
class FP8(FeedbackFormat):
    """B in ``float8_e4m3fn`` with one scale: for GPUs that multiply such numbers (compute capability 8.9).

    There the error is rounded to ``float8_e5m2``, which has range in place of precision, by a scale of its
    own (Micikevicius et al. 2022, arXiv 2209.05433). Elsewhere B is decompressed.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> summary = set_learning_rule(model, SoftAlignment(1.0), format=FP8())
        >>> all(row.cosine > 0.999 for row in summary.rows)
        True
    """

    names = ("packed", "scale")

    def compress(self, matrix: Tensor) -> Stored:
        """Scale to the largest number of the format, and round; (in, out), as the kernel wants it."""
        scale = matrix.abs().max() / torch.finfo(torch.float8_e4m3fn).max
        packed = (matrix / scale).to(torch.float8_e4m3fn)
        scale = rescaled(scale, packed.to(matrix.dtype) * scale, matrix)
        # Kept as bytes: pickle cannot read a tensor of float8 back (torch 2.13).
        return packed.t().contiguous().view(torch.uint8), scale.to(torch.float32).reshape(1)

    def dense(self, stored: Stored, shape: tuple[int, int]) -> Tensor:
        """Numbers times the scale, float32."""
        packed, scale = stored[0].view(torch.float8_e4m3fn), stored[1]
        return packed.to(scale.dtype).t() * scale

    def product(self, error: Tensor, stored: Stored, shape: tuple[int, int]) -> Tensor:
        """One product of 8-bit numbers where there is one, with a result of 16 bits."""
        # The kernel wants whole blocks of 16 numbers.
        if needs_plain_operations() or shape[0] % 16 or shape[1] % 16 or not _has_kernels(error.device):
            return super().product(error, stored, shape)
        packed, scale = stored[0].view(torch.float8_e4m3fn), stored[1]
        step = error.abs().max().float().clamp_min(1e-30) / torch.finfo(torch.float8_e5m2).max
        rounded = (error / step).to(torch.float8_e5m2).contiguous()  # rows, as the kernel wants them
        return torch._scaled_mm(
            rounded, packed.t(), scale_a=step, scale_b=scale.reshape(()), out_dtype=torch.bfloat16
        )

    @property
    def label(self) -> str:
        """A few words for a table."""
        return "float8"

    def multiplication(self, device: torch.device) -> str:
        """How it multiplies on a device."""
        return "8-bit product" if _has_kernels(device) else DECOMPRESSED


def _has_kernels(device: torch.device) -> bool:
    if device.type != "cuda" or torch.version.cuda is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 9)
