"""Claims about what is learnt: test accuracy at the end, early and with depth; bits per byte of language."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from alignonce.experiments.claims.numbers import (
    ACCURACY,
    Place,
    Quantity,
    find_all,
    places_of,
    seeds_of,
)
from alignonce.experiments.claims.questions import Answer, Claim, Question, compared, others
from alignonce.experiments.claims.samples import Samples, Term, weighted_sum
from alignonce.experiments.facts import Facts, cell_settings
from alignonce.experiments.setting import NO_SETTING, Setting

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


def _epoch(setting: Setting) -> float:
    return setting.number("epoch")


def _after_one_epoch(facts: Facts) -> Iterator[Answer]:
    for place in places_of(facts):
        for rule in others(facts, place, "fa"):
            epochs = _common_epochs(facts, place, (rule, "fa"))
            if not epochs:
                continue
            epoch = min(epochs, key=lambda setting: abs(_epoch(setting) - 1))
            quantity = ACCURACY._replace(setting=epoch)
            samples = weighted_sum(
                facts, [Term(100, place, rule, quantity), Term(-100, place, "fa", quantity)]
            )
            if samples is not None:
                notes = samples.notes + ((f"measured at {epoch}",) if _epoch(epoch) != 1 else ())
                yield Answer(place, rule, Samples(samples.values, samples.noise, notes))


def _common_epochs(facts: Facts, place: Place, rules: tuple[str, ...]) -> set[Setting]:
    """Settings of the tests on the way that some run of each rule has, the start left out."""
    return set.intersection(
        *(
            {
                fact.setting
                for seed in seeds_of(facts, place, rule)
                for fact in find_all(facts, place, rule, seed, ACCURACY)
                if fact.setting != NO_SETTING and _epoch(fact.setting) > 0
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


class _Depths(NamedTuple):
    """Cells of a part that differ in nothing but depth: the shallowest and the deepest."""

    shallow: Place
    deep: Place

    @property
    def name(self) -> Place:
        low, high = (cell_settings(place.cell)["depth"] for place in self)
        return Place(self.deep.part, self.deep.cell.replace(f"depth={high}", f"depth={low}..{high}"))


def _depths(facts: Facts) -> Iterator[_Depths]:
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], list[tuple[int, Place]]] = {}
    for place in places_of(facts):
        settings = cell_settings(place.cell)
        if "depth" in settings:
            depth = int(settings.pop("depth"))
            groups.setdefault((place.part, tuple(settings.items())), []).append((depth, place))
    for cells in groups.values():
        if len(cells) > 1:
            yield _Depths(min(cells)[1], max(cells)[1])


def _lost_with_depth(depths: _Depths, rule: str) -> list[Term]:
    """The gap to backpropagation in the deepest network, less that in the shallowest, in points."""
    return [
        Term(100 * sign, place, which, ACCURACY)
        for place, deep in ((depths.deep, 1), (depths.shallow, -1))
        for which, sign in (("bp", deep), (rule, -deep))
    ]


def _reference_remark(facts: Facts, depths: _Depths) -> tuple[str, ...]:
    """Backpropagation itself may fail in deep networks; then a small gap to it is no praise."""
    lost = weighted_sum(
        facts,
        [Term(100, depths.shallow, "bp", ACCURACY), Term(-100, depths.deep, "bp", ACCURACY)],
    )
    points = float(np.mean(list(lost.values.values()))) if lost is not None and lost.values else 0.0
    return (f"backpropagation itself loses {points:.1f} points with depth",) if points > 5 * MARGIN else ()


def _in_depth(claim: Claim, rules: tuple[str, ...] | None) -> Question:
    def answers(facts: Facts) -> Iterator[Answer]:
        for depths in _depths(facts):
            for rule in others(facts, depths.deep, "bp"):
                samples = weighted_sum(facts, _lost_with_depth(depths, rule))
                if samples is not None and (rules is None or rule in rules):
                    notes = samples.notes + _reference_remark(facts, depths)
                    yield Answer(depths.name, rule, Samples(samples.values, samples.noise, notes))

    return Question(claim, answers)


FA_GAP_GROWS = _in_depth(
    Claim(
        "fa-gap-grows", "Depth",
        "Feedback alignment struggles “especially in deep networks”: its gap to backpropagation grows.",
        "How far random feedback is below backpropagation in the deepest network, less how far it is in the "
        "shallowest.",
        "growth of the gap in test accuracy", 0.0, "points", "above", "difference", "bp",
    ),
    ("fa",),
)  # fmt: skip
HOLDS_WITH_DEPTH = _in_depth(
    Claim(
        "gap-stays", "Depth",
        "“Enables deep networks”: as near to backpropagation in the deepest network as in the shallowest.",
        "How far the rule is below backpropagation in the deepest network, less how far it is in the "
        f"shallowest; it stays if it grows by less than {MARGIN:g} points.",
        "growth of the gap in test accuracy", MARGIN, "points", "below", "difference", "bp",
    ),
    None,
)  # fmt: skip


def _fa_at_the_deepest(facts: Facts) -> Iterator[Answer]:
    for depths in _depths(facts):
        terms = [Term(100, depths.deep, "bp", ACCURACY), Term(-100, depths.deep, "fa", ACCURACY)]
        samples = weighted_sum(facts, terms)
        if samples is not None:
            yield Answer(depths.deep, "fa", samples)


FA_FAILS_DEEP = Question(
    Claim(
        "fa-fails-deep", "Depth",
        "Feedback alignment has “poor learning performance … especially in deep networks”.",
        f"How far random feedback is below backpropagation in the deepest network; it fails if by more "
        f"than {MARGIN:g} points.",
        "difference of test accuracy", MARGIN, "points", "above", "difference", "bp",
    ),
    _fa_at_the_deepest,
)  # fmt: skip

DEPTH_QUESTIONS = (FA_FAILS_DEEP, FA_GAP_GROWS, HOLDS_WITH_DEPTH)
