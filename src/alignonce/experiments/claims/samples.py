"""The value of a statistic in each seed, out of the numbers of runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from alignonce.experiments.claims.bootstrap import CountedImages, ImageNoise, KnownImages, Share
from alignonce.experiments.claims.numbers import ACCURACY, Numbers, Place, Quantity
from alignonce.experiments.facts import Fact


@dataclass(frozen=True)
class Samples:
    """One value for each seed that has what it takes; what other images would have changed; remarks."""

    values: dict[int, float]
    noise: ImageNoise | None = None
    notes: tuple[str, ...] = ()


class Term(NamedTuple):
    """A number of a run, as part of a weighted sum."""

    weight: float
    place: Place
    rule: str
    quantity: Quantity


def weighted_sum(numbers: Numbers, terms: Sequence[Term], *, logarithm: bool = False) -> Samples | None:
    """Add up numbers of several runs, seed by seed.

    Args:
        numbers: of the study.
        terms: what to add.
        logarithm: whether to add logarithms, as for a ratio.

    Returns:
        The sums; seeds that lack a number are left out, and a note says so. None if a rule is missing, or a
        number was measured of no run at all.
    """
    runs = list(dict.fromkeys((term.place, term.rule) for term in terms))
    seeds = sorted({seed for place, rule in runs for seed in numbers.seeds(place, rule)})
    table = {seed: [numbers.one(t.place, t.rule, seed, t.quantity) for t in terms] for seed in seeds}
    if any(not numbers.seeds(place, rule) for place, rule in runs):
        return None
    if not any(fact is not None for facts in table.values() for fact in facts):
        return None
    notes: list[str] = []
    usable: dict[int, list[Fact]] = {}
    for seed, facts in table.items():
        known = [fact for fact in facts if fact is not None and _fits(fact.value, logarithm)]
        if len(known) == len(terms):
            usable[seed] = known
        else:
            notes.append(_left_out(numbers, terms, facts, seed, logarithm))
    values = {
        seed: sum(
            term.weight * (math.log(fact.value) if logarithm else fact.value)
            for term, fact in zip(terms, facts, strict=True)
        )
        for seed, facts in usable.items()
    }
    notes += _chance_notes(numbers, terms, list(usable))
    return Samples(values, _noise(numbers, terms, usable, logarithm), tuple(dict.fromkeys(notes)))


def _fits(value: float, logarithm: bool) -> bool:
    return math.isfinite(value) and (value > 0 or not logarithm)


def _left_out(
    numbers: Numbers, terms: Sequence[Term], facts: Sequence[Fact | None], seed: int, logarithm: bool
) -> str:
    reasons = []
    for term, fact in zip(terms, facts, strict=True):
        if fact is not None and _fits(fact.value, logarithm):
            continue
        what = "was not measured" if fact is None else f"is {fact.value:.3g}"
        why = " (the run diverged)" if numbers.diverged(term.place, term.rule, seed) else ""
        reasons.append(f"{term.quantity.measure} of {term.rule} {what}{why}")
    return f"seed {seed} left out: {', '.join(dict.fromkeys(reasons))}"


def _chance_notes(numbers: Numbers, terms: Sequence[Term], seeds: Sequence[int]) -> list[str]:
    """Runs that diverged and still count, by the accuracy that they are given."""
    return [
        f"{term.rule}, seed {seed}, diverged: its accuracy counts as chance"
        for term in terms
        if term.quantity == ACCURACY
        for seed in seeds
        if numbers.diverged(term.place, term.rule, seed)
    ]


def _noise(
    numbers: Numbers, terms: Sequence[Term], usable: dict[int, list[Fact]], logarithm: bool
) -> ImageNoise | None:
    shares = [place for place, term in enumerate(terms) if term.quantity.share_of_images]
    if not usable or not shares or any(facts[i].images == 0 for facts in usable.values() for i in shares):
        return None
    if not logarithm and all(term.quantity == ACCURACY for term in terms):
        known = [[numbers.correct(t.place, t.rule, seed) for t in terms] for seed in usable]
        rows = [
            sum(term.weight * right for term, right in zip(terms, rights, strict=True) if right is not None)
            for rights in known
            if all(right is not None for right in rights)
            and len({len(right) for right in rights if right is not None}) == 1
        ]
        if len(rows) == len(usable) and len({np.size(row) for row in rows}) == 1:
            return KnownImages(np.array(rows, dtype=np.float64))
    return CountedImages(
        [
            [
                # A logarithm moves by the share's own relative change.
                Share(
                    terms[i].weight / facts[i].value if logarithm else terms[i].weight,
                    facts[i].value,
                    facts[i].images,
                )
                for i in shares
            ]
            for facts in usable.values()
        ]
    )
