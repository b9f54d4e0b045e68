"""Claims about accuracy: beside backpropagation and random feedback, at the end and early."""

from __future__ import annotations

from collections.abc import Iterator

from alignonce.experiments.claims.numbers import ACCURACY, Numbers, Place, Quantity
from alignonce.experiments.claims.questions import Answer, Claim, Question, compared, others
from alignonce.experiments.claims.samples import Samples, Term, weighted_sum

MARGIN = 2.0
"""Points of accuracy below backpropagation that still count as comparable to it."""

NEAR_BP = compared(
    Claim(
        "accuracy-near-bp", "Accuracy",
        f"“Performance comparable to backpropagation”: within {MARGIN:g} points of its accuracy.",
        "Test accuracy of the rule less that of backpropagation, from the same initial weights and on the "
        f"same batches. Comparable means less than {MARGIN:g} points below; being better is no objection.",
        "difference of test accuracy", -MARGIN, "points", "above", "difference", "bp",
    ),
    ACCURACY, factor=100,
)  # fmt: skip
BETTER_THAN_FA = compared(
    Claim(
        "accuracy-above-fa", "Accuracy",
        "Feedback alignment has “poor learning performance”: the rule learns better than it.",
        "Test accuracy of the rule less that of random feedback.",
        "difference of test accuracy", 0.0, "points", "above", "difference", "fa",
    ),
    ACCURACY, factor=100,
)  # fmt: skip


def _epoch(fact_setting: str) -> float:
    return float(fact_setting.removeprefix("epoch="))


def _after_one_epoch(numbers: Numbers) -> Iterator[Answer]:
    for place in numbers.places:
        for rule in others(numbers, place, "fa"):
            epochs = _common_epochs(numbers, place, (rule, "fa"))
            if not epochs:
                continue
            epoch = min(epochs, key=lambda setting: abs(_epoch(setting) - 1))
            quantity = ACCURACY._replace(setting=epoch)
            samples = weighted_sum(
                numbers, [Term(100, place, rule, quantity), Term(-100, place, "fa", quantity)]
            )
            if samples is not None:
                notes = samples.notes + ((f"measured at {epoch}",) if _epoch(epoch) != 1 else ())
                yield Answer(place, rule, Samples(samples.values, samples.noise, notes))


def _common_epochs(numbers: Numbers, place: Place, rules: tuple[str, ...]) -> set[str]:
    """Settings of the tests on the way that some run of each rule has, the start left out."""
    return set.intersection(
        *(
            {
                fact.setting
                for seed in numbers.seeds(place, rule)
                for fact in numbers.all(place, rule, seed, ACCURACY)
                if fact.setting and _epoch(fact.setting) > 0
            }
            for rule in rules
        )
    )


LEARNS_EARLY = Question(
    Claim(
        "learns-early", "Trainability",
        "“Improving network trainability”: ahead of random feedback after the first epoch.",
        "Test accuracy after the first epoch, or at the measurement nearest to it, less that of random "
        "feedback.",
        "difference of test accuracy after one epoch", 0.0, "points", "above", "difference", "fa",
    ),
    _after_one_epoch,
)  # fmt: skip

ACCURACY_QUESTIONS = (NEAR_BP, BETTER_THAN_FA, LEARNS_EARLY)


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
