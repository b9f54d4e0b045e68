"""Claims about depth: what a rule loses from the shallowest to the deepest network of a part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from alignonce.experiments.claims.claims_accuracy import MARGIN
from alignonce.experiments.claims.numbers import ACCURACY, Numbers, Place
from alignonce.experiments.claims.questions import Answer, Claim, Question, others
from alignonce.experiments.claims.samples import Samples, Term, weighted_sum
from alignonce.experiments.facts import cell_settings


class _Depths(NamedTuple):
    """Cells of a part that differ in nothing but depth: the shallowest and the deepest."""

    shallow: Place
    deep: Place

    @property
    def name(self) -> Place:
        low, high = (cell_settings(place.cell)["depth"] for place in self)
        return Place(self.deep.part, self.deep.cell.replace(f"depth={high}", f"depth={low}..{high}"))


def _depths(numbers: Numbers) -> Iterator[_Depths]:
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], list[tuple[int, Place]]] = {}
    for place in numbers.places:
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


def _reference_remark(numbers: Numbers, depths: _Depths) -> tuple[str, ...]:
    """Backpropagation itself may fail in deep networks; then a small gap to it is no praise."""
    lost = weighted_sum(
        numbers,
        [Term(100, depths.shallow, "bp", ACCURACY), Term(-100, depths.deep, "bp", ACCURACY)],
    )
    points = float(np.mean(list(lost.values.values()))) if lost is not None and lost.values else 0.0
    return (f"backpropagation itself loses {points:.1f} points with depth",) if points > 5 * MARGIN else ()


def _in_depth(claim: Claim, rules: tuple[str, ...] | None) -> Question:
    def answers(numbers: Numbers) -> Iterator[Answer]:
        for depths in _depths(numbers):
            for rule in others(numbers, depths.deep, "bp"):
                samples = weighted_sum(numbers, _lost_with_depth(depths, rule))
                if samples is not None and (rules is None or rule in rules):
                    notes = samples.notes + _reference_remark(numbers, depths)
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


def _fa_at_the_deepest(numbers: Numbers) -> Iterator[Answer]:
    for depths in _depths(numbers):
        terms = [Term(100, depths.deep, "bp", ACCURACY), Term(-100, depths.deep, "fa", ACCURACY)]
        samples = weighted_sum(numbers, terms)
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
