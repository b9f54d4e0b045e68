"""Claims about language models, whose bits per byte are the better the fewer."""

from __future__ import annotations

from alignonce.experiments.claims.finding import Claim
from alignonce.experiments.claims.numbers import Quantity
from alignonce.experiments.claims.questions import Question, compared

BITS = Quantity("run", "test_bits_per_byte")
MARGIN = 1.05
"""Bits per byte over those of backpropagation that still count as close to it."""


def _bits(name: str, sentence: str, baseline: str, title: str, threshold: float) -> Question:
    return compared(
        Claim(
            name, "Language", sentence,
            f"Bits per byte of held-out text after equally many steps, divided by those of {title}, from the "
            "same initial weights and on the same batches.",
            "ratio of bits per byte", threshold, "", "below", "ratio", baseline,
        ),
        BITS,
    )  # fmt: skip


LANGUAGE_QUESTIONS = (
    _bits(
        "bits-near-bp", f"Language: at most {MARGIN - 1:.0%} more bits per byte than backpropagation.",
        "bp", "backpropagation", MARGIN,
    ),
    _bits("bits-below-fa", "Language: fewer bits per byte than random feedback.", "fa", "random feedback", 1.0),
    _bits("bits-below-dfa", "Language: fewer bits per byte than direct feedback.", "dfa", "direct feedback", 1.0),
)  # fmt: skip
