"""Claims about language models, whose bits per byte are the better the fewer."""

from __future__ import annotations

from alignonce.experiments.claims.finding import Claim
from alignonce.experiments.claims.numbers import Quantity
from alignonce.experiments.claims.questions import Question, compared

BITS = Quantity("run", "test_bits_per_byte")


def _bits(name: str, sentence: str, baseline: str, title: str, threshold: float = 1.0) -> Question:
    return compared(
        Claim(
            name, "Language", f"Language: {sentence} than {title}.",
            f"Bits per byte of held-out text after equally many steps, divided by those of {title}, from the "
            "same initial weights and on the same batches.",
            "ratio of bits per byte", threshold, "", "below", "ratio", baseline,
        ),
        BITS,
    )  # fmt: skip


LANGUAGE_QUESTIONS = (
    _bits("bits-near-bp", "at most 5% more bits per byte", "bp", "backpropagation", 1.05),
    _bits("bits-below-fa", "fewer bits per byte", "fa", "random feedback"),
    _bits("bits-below-dfa", "fewer bits per byte", "dfa", "direct feedback"),
)
