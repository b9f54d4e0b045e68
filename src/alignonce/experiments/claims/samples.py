"""The value of a statistic in each seed, out of the numbers of runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from alignonce.experiments.claims.bootstrap import CountedImages, ImageNoise, KnownImages, Share
from alignonce.experiments.claims.numbers import (
    ACCURACY,
    Place,
    Quantity,
    find,
    has_diverged,
    right_images,
    seeds_of,
)
from alignonce.experiments.facts import Fact, Facts


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


def weighted_sum(facts: Facts, terms: Sequence[Term], *, logarithm: bool = False) -> Samples | None:
    """Add up numbers of several runs, seed by seed.

    Args:
        facts: of the study.
        terms: what to add.
        logarithm: whether to add logarithms, as for a ratio.

    Returns:
        The sums; seeds that lack a number are left out, and a note says so. None if a rule is missing, or a
        number was measured of no run at all.
    """
    runs = list(dict.fromkeys((term.place, term.rule) for term in terms))
    seeds = sorted({seed for place, rule in runs for seed in seeds_of(facts, place, rule)})
    table = {seed: [find(facts, t.place, t.rule, seed, t.quantity) for t in terms] for seed in seeds}
    if any(not seeds_of(facts, place, rule) for place, rule in runs):
        return None
    if not any(fact is not None for own in table.values() for fact in own):
        return None
    notes: list[str] = []
    usable: dict[int, list[Fact]] = {}
    for seed, own in table.items():
        known = [fact for fact in own if fact is not None and _fits(fact.value, logarithm)]
        if len(known) == len(terms):
            usable[seed] = known
        else:
            notes.append(_left_out(facts, terms, own, seed, logarithm))
    values = {
        seed: sum(
            term.weight * (math.log(fact.value) if logarithm else fact.value)
            for term, fact in zip(terms, own, strict=True)
        )
        for seed, own in usable.items()
    }
    notes += _chance_notes(facts, terms, list(usable))
    return Samples(values, _noise(facts, terms, usable, logarithm), tuple(dict.fromkeys(notes)))


def _fits(value: float, logarithm: bool) -> bool:
    return math.isfinite(value) and (value > 0 or not logarithm)


def _left_out(
    facts: Facts, terms: Sequence[Term], own: Sequence[Fact | None], seed: int, logarithm: bool
) -> str:
    reasons = []
    for term, fact in zip(terms, own, strict=True):
        if fact is not None and _fits(fact.value, logarithm):
            continue
        what = "was not measured" if fact is None else f"is {fact.value:.3g}"
        why = " (the run diverged)" if has_diverged(facts, term.place, term.rule, seed) else ""
        reasons.append(f"{term.quantity.measure} of {term.rule} {what}{why}")
    return f"seed {seed} left out: {', '.join(dict.fromkeys(reasons))}"


def _chance_notes(facts: Facts, terms: Sequence[Term], seeds: Sequence[int]) -> list[str]:
    """Runs that diverged and still count, by the accuracy that they are given."""
    return [
        f"{term.rule}, seed {seed}, diverged: its accuracy counts as chance"
        for term in terms
        if term.quantity == ACCURACY
        for seed in seeds
        if has_diverged(facts, term.place, term.rule, seed)
    ]


def _noise(
    facts: Facts, terms: Sequence[Term], usable: dict[int, list[Fact]], logarithm: bool
) -> ImageNoise | None:
    shares = [place for place, term in enumerate(terms) if term.quantity.share_of_images]
    if not usable or not shares or any(own[i].images == 0 for own in usable.values() for i in shares):
        return None
    if not logarithm and all(term.quantity == ACCURACY for term in terms):
        known = [[right_images(facts, t.place, t.rule, seed) for t in terms] for seed in usable]
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
                    terms[i].weight / own[i].value if logarithm else terms[i].weight,
                    own[i].value,
                    own[i].images,
                )
                for i in shares
            ]
            for own in usable.values()
        ]
    )
