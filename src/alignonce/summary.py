"""What a call of ``set_learning_rule`` did, as values and as a table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alignonce.direct.install import Tap
from alignonce.formats import Dense, FeedbackFormat
from alignonce.formats.base import dtype_name
from alignonce.formats.compressed import HeldFeedback
from alignonce.layers.base import FeedbackLayer
from alignonce.layers.kinds import feedback_class
from alignonce.rules.base import LearningRule

_DENSE = Dense()
_PIECE = 2**20

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
    """Cosine between W and B as flat vectors; NaN for direct feedback, which stands for no weight."""
    extra_bytes: int
    """Bytes that the feedback weight adds; 0 if it is shared with an earlier row."""
    stored_as: FeedbackFormat = _DENSE
    """The format itself, which ``format`` has in words."""

    @classmethod
    def of(
        cls,
        name: str,
        layer: nn.Module,
        rule: LearningRule,
        weight: Tensor,
        feedback: HeldFeedback,
        shared: bool,
    ) -> "FeedbackRow":
        """Describe W and B of a layer, plain still or not; ``shared``: an earlier row has counted B."""
        plain_class = layer.plain_class if isinstance(layer, FeedbackLayer) else type(layer)
        if isinstance(feedback, Tensor):
            form, size = f"dense {dtype_name(feedback.dtype)}", feedback.numel() * feedback.element_size()
            stored_as: FeedbackFormat = _DENSE
        else:
            stored_as = feedback.format
            multiplication = feedback_class(plain_class).multiplication_of(layer, feedback)
            form, size = ", ".join(filter(None, (feedback.format.label, multiplication))), feedback.bytes
            feedback = feedback.to_dense()
        return cls(
            name, plain_class.__name__, tuple(weight.shape), rule, form,
            cosine_similarity(weight, feedback), 0 if shared else size, stored_as,
        )  # fmt: skip

    def cells(self) -> tuple[str, ...]:
        """The row in words, for a table."""
        cosine = "" if math.isnan(self.cosine) else f"{self.cosine:.4f}"
        shape = "x".join(map(str, self.shape))
        return self.name, self.kind, shape, str(self.rule), self.format, cosine, f"{self.extra_bytes:,}"

    @classmethod
    def of_tap(cls, tap: Tap, rule: LearningRule) -> "FeedbackRow":
        """Describe the direct feedback to a module's inputs; the shape is that of the first B."""
        size = sum(b.numel() * b.element_size() for b in tap.feedback)
        shape = tuple(tap.feedback[0].shape) if tap.feedback else ()
        form = f"direct {dtype_name(tap.feedback[0].dtype)}" if tap.feedback else "no error reaches it"
        outputs = len({output for routes in tap.routes.values() for output, _, _ in routes})
        if outputs > 1:
            form += f", {outputs} outputs"
        return cls(tap.name, type(tap.module).__name__, shape, rule, form, math.nan, size)


@dataclass(frozen=True)
class ExactModule:
    """A module with parameters whose gradients stay exact, and why."""

    name: str
    kind: str
    reason: str
    refused: bool = False
    """Whether it is a layer that was to be converted and could not be."""

    def __str__(self) -> str:
        return f"{self.name or '(the model itself)'} ({self.kind}): {self.reason}"


@dataclass(frozen=True)
class RuleSummary:
    """The outcome of ``set_learning_rule``; prints as a table.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> summary = set_learning_rule(model, SoftAlignment(0.5), where="0")
        >>> [(row.name, row.shape, round(row.cosine, 3)) for row in summary.rows]
        [('0', (16, 8), 0.5)]
        >>> [(module.name, module.reason) for module in summary.exact]
        [('2', 'not selected')]
    """

    rule: LearningRule
    rows: tuple[FeedbackRow, ...]
    exact: tuple[ExactModule, ...]
    converted_weights: int = 0
    """Numbers in the weights that have feedback weights, a shared weight once."""
    all_weights: int = 0
    """Numbers in all weights that errors can go back through; 0 for direct feedback, which has none.

    Biases do not count, nor embeddings, unless a layer shares their weight; scales of norm layers do.
    """

    idle: tuple[str, ...] = ()
    """Converted layers that the model did not call in a run on ``inputs``."""

    @property
    def converted_share(self) -> float:
        """The share of the model's weights that have feedback weights; NaN for direct feedback."""
        return self.converted_weights / self.all_weights if self.all_weights else math.nan

    @property
    def extra_bytes(self) -> int:
        """Bytes of all feedback weights."""
        return sum(row.extra_bytes for row in self.rows)

    @property
    def formats(self) -> dict[str, FeedbackFormat]:
        """Of each feedback weight that is not dense, for ``set_learning_rule(format=...)`` to repeat it."""
        return {row.name: row.stored_as for row in self.rows if row.extra_bytes and row.stored_as != _DENSE}

    def __str__(self) -> str:
        if not self.rows:
            parts = [f"{self.rule}: plain layers, no feedback weights"]
        else:
            body = [row.cells() for row in self.rows]
            body.append(("total", "", "", "", "", "", f"{self.extra_bytes:,}"))
            parts = [table(("layer", "kind", "shape", "rule", "format", "cosine", "extra bytes"), body)]
            if self.all_weights:
                parts.append(
                    f"converted: {self.converted_share:.1%} of {self.all_weights:,} weights that errors can "
                    "go back through (biases and embeddings not counted)"
                )
        if self.idle:
            parts.append(
                "did not run on inputs, so that their feedback weights are used only if they do: "
                + ", ".join(self.idle)
            )
        if self.exact:
            rows = [(e.name or "(the model itself)", e.kind, e.reason) for e in self.exact]
            parts.append(table(("left exact", "kind", "why"), rows))
        return "\n\n".join(parts)


def cosine_similarity(a: Tensor, b: Tensor) -> float:
    """Cosine between two tensors as flat vectors, computed in float64; NaN if one is all zero."""
    products = torch.zeros(3, dtype=torch.float64, device="cpu")
    # Piece by piece: whole copies in float64 take ten times as long as the products.
    for x, y in zip(a.detach().flatten().split(_PIECE), b.detach().flatten().split(_PIECE), strict=True):
        x, y = x.to("cpu", torch.float64), y.to("cpu", torch.float64)
        products += torch.stack([x.dot(y), x.dot(x), y.dot(y)])
    dot, square_of_a, square_of_b = products
    return float(dot / (square_of_a.sqrt() * square_of_b.sqrt()))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain text columns under a ruled head."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])
