"""Feedback formats as short strings for humans: `dense`, `low-rank:1/8`, `int8`. All are listed here."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch

from alignonce.formats import FP8, Dense, FeedbackFormat, Int4, Int8, LowRank, SemiStructured, Sign, Sparse


@dataclass(frozen=True)
class FormatKind:
    """One known format: its name in a spec, what it means, and how to make it.

    A format with a `value_name` takes one number after a colon; `default` stands where it is left out.
    """

    name: str
    title: str
    build: Callable[[Fraction], FeedbackFormat]
    value_name: str | None = None
    default: Fraction = Fraction(0)

    @property
    def usage(self) -> str:
        """How to write the format, such as `low-rank:PART`."""
        return self.name if self.value_name is None else f"{self.name}:{self.value_name.upper()}"


def _low_rank(part: Fraction, dtype: torch.dtype | None = None) -> FeedbackFormat:
    if part.denominator == 1:
        return LowRank(rank=int(part), dtype=dtype)
    return LowRank(fraction=float(part), dtype=dtype)


_KINDS = (
    FormatKind("dense", "every element", lambda _: Dense()),
    FormatKind("bf16", "every element in bfloat16", lambda _: Dense(torch.bfloat16)),
    FormatKind(
        "low-rank",
        "two thin factors; PART: a fraction of full rank, or a rank",
        _low_rank,
        "part",
        Fraction(1, 8),
    ),
    FormatKind(
        "low-rank-bf16",
        "the same in bfloat16",
        lambda part: _low_rank(part, torch.bfloat16),
        "part",
        Fraction(1, 8),
    ),
    FormatKind("int8", "8 bits", lambda _: Int8()),
    FormatKind("int4", "4 bits", lambda _: Int4()),
    FormatKind("sign", "1 bit", lambda _: Sign()),
    FormatKind("fp8", "8 bits, floating-point", lambda _: FP8()),
    FormatKind(
        "sparse",
        "the largest elements; PART: the fraction kept",
        lambda part: Sparse(float(part)),
        "part",
        Fraction(1, 2),
    ),
    FormatKind("semi-structured", "two of each four elements", lambda _: SemiStructured()),
)
KNOWN_FORMATS: dict[str, FormatKind] = {kind.name: kind for kind in _KINDS}


def split_format(spec: str) -> tuple[FormatKind, Fraction]:
    """Read a format spec.

    Args:
        spec: such as `dense`, `low-rank:1/8`, `low-rank:32` or `int8`.

    Returns:
        The kind of format and its value (0 for a format that takes none).

    Raises:
        ValueError: the format is unknown, or its value is missing, superfluous or out of bounds.
    """
    name, colon, text = spec.strip().partition(":")
    kind = KNOWN_FORMATS.get(name)
    if kind is None:
        known = ", ".join(f"{k.usage} ({k.title})" for k in KNOWN_FORMATS.values())
        raise ValueError(f"unknown feedback format {spec!r}; known are {known}")
    if not colon:
        return kind, kind.default
    if kind.value_name is None:
        raise ValueError(f"feedback format {name!r} takes no value, got {spec!r}")
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{kind.value_name} of {kind.usage} must be a number, got {spec!r}") from None
    try:
        kind.build(value)
    except ValueError as error:
        raise ValueError(f"{kind.value_name} of {kind.usage}: {error}, got {spec!r}") from None
    return kind, value


def canonical_format(spec: str) -> str:
    """Return the one way to write a format spec: `low-rank` and `low-rank:0.125` become `low-rank:1/8`.

    Args:
        spec: any spec that `split_format` reads.

    Returns:
        The canonical spec.
    """
    kind, value = split_format(spec)
    return kind.name if kind.value_name is None else f"{kind.name}:{value}"


def parse_format(spec: str) -> FeedbackFormat:
    """Make the feedback format that a spec names.

    Args:
        spec: such as `dense` or `low-rank:1/8`.

    Returns:
        The format, ready for `set_learning_rule`.
    """
    kind, value = split_format(spec)
    return kind.build(value)
