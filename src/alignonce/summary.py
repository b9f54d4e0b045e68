"""What a call of ``set_learning_rule`` did, as values and as a table."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alignonce.rules import LearningRule

__all__ = ["ExactModule", "FeedbackRow", "RuleSummary", "cosine_similarity", "table"]


@dataclass(frozen=True)
class FeedbackRow:
    """A forward weight that has a feedback weight."""

    name: str
    kind: str
    shape: tuple[int, ...]
    rule: LearningRule
    format: str
    cosine: float
    """Cosine between W and B as flat vectors."""
    extra_bytes: int
    """Bytes that the feedback weight adds; 0 if it is shared with an earlier row."""

    @classmethod
    def of(
        cls,
        name: str,
        plain_class: type[nn.Module],
        rule: LearningRule,
        weight: Tensor,
        feedback: Tensor,
        shared: bool,
    ) -> "FeedbackRow":
        """Describe W and B of a layer; ``shared`` says that an earlier row has counted B."""
        size = 0 if shared else feedback.numel() * feedback.element_size()
        dtype = str(feedback.dtype).removeprefix("torch.")
        return cls(
            name, plain_class.__name__, tuple(weight.shape), rule, f"dense {dtype}",
            cosine_similarity(weight, feedback), size,
        )  # fmt: skip


@dataclass(frozen=True)
class ExactModule:
    """A module with parameters whose gradients stay exact, and why."""

    name: str
    kind: str
    reason: str
    refused: bool = False
    """Whether it is a layer that was to be converted and could not be."""


@dataclass(frozen=True)
class RuleSummary:
    """The outcome of ``set_learning_rule``; prints as a table."""

    rule: LearningRule
    rows: tuple[FeedbackRow, ...]
    exact: tuple[ExactModule, ...]

    @property
    def extra_bytes(self) -> int:
        """Bytes of all feedback weights."""
        return sum(row.extra_bytes for row in self.rows)

    def __str__(self) -> str:
        if not self.rows:
            parts = [f"{self.rule}: plain layers, no feedback weights"]
        else:
            body = [
                (r.name, r.kind, "x".join(map(str, r.shape)), str(r.rule), r.format, f"{r.cosine:.4f}",
                 f"{r.extra_bytes:,}")
                for r in self.rows
            ]  # fmt: skip
            body.append(("total", "", "", "", "", "", f"{self.extra_bytes:,}"))
            parts = [table(("layer", "kind", "shape", "rule", "format", "cosine", "extra bytes"), body)]
        if self.exact:
            rows = [(e.name or "(the model itself)", e.kind, e.reason) for e in self.exact]
            parts.append(table(("left exact", "kind", "why"), rows))
        return "\n\n".join(parts)


def cosine_similarity(a: Tensor, b: Tensor) -> float:
    """Cosine between two tensors as flat vectors, computed in float64; NaN if one is all zero."""
    a, b = (t.detach().flatten().to("cpu", torch.float64) for t in (a, b))
    return float(a.dot(b) / (a.norm() * b.norm()))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain text columns under a ruled head."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])
