"""Claims about alignment: what more of it brings, and whether it lasts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.stats import spearmanr  # type: ignore[import-untyped]

from alignonce.experiments.claims.numbers import ACCURACY, Place, find, places_of, rules_at, seeds_of
from alignonce.experiments.claims.questions import Answer, Claim, Question
from alignonce.experiments.claims.samples import Samples, Term, weighted_sum
from alignonce.experiments.config.rule_specs import ALL_COSINES, split_rule
from alignonce.experiments.facts import Facts

COSINE_MARGIN = 0.1
"""How much the mean cosine of W and B may fall during training and still be called kept."""


def _cosines(facts: Facts, place: Place) -> dict[float, str]:
    """The rules that differ in nothing but the cosine of W and B at the start, by cosine."""
    found = {}
    for rule in rules_at(facts, place):
        kind, values = split_rule(rule)
        if kind.name == "fa":
            found[0.0] = rule
        elif kind.name == "soft":
            found[values[0]] = rule
    return dict(sorted(found.items()))


def _rank_correlations(facts: Facts) -> Iterator[Answer]:
    for place in places_of(facts):
        cosines = _cosines(facts, place)
        if len(cosines) < 3:
            continue
        values: dict[int, float] = {}
        notes: list[str] = []
        by_seed: dict[int, dict[float, float]] = {}
        for seed in sorted({seed for rule in cosines.values() for seed in seeds_of(facts, place, rule)}):
            found = {cosine: find(facts, place, rule, seed, ACCURACY) for cosine, rule in cosines.items()}
            by_seed[seed] = {cosine: fact.value for cosine, fact in found.items() if fact is not None}
        if not any(by_seed.values()):
            continue  # What is learnt there has no accuracy.
        for seed, accuracy in by_seed.items():
            if len(accuracy) < len(cosines):
                notes.append(f"seed {seed} left out: not all cosines were run")
            elif len(set(accuracy.values())) == 1:
                notes.append(f"seed {seed} left out: all accuracies are the same")
            else:
                values[seed] = float(spearmanr(list(accuracy.keys()), list(accuracy.values())).statistic)
        yield Answer(place, ALL_COSINES, Samples(values, None, tuple(notes)))


RISES_WITH_COSINE = Question(
    Claim(
        "accuracy-rises-with-cosine", "Cosine",
        "The better the “alignment between forward and feedback weights”, the better the network learns.",
        "Spearman's rank correlation, within each seed, of test accuracy and the cosine of W and B at the "
        "start; random feedback counts as 0. 1 means that each step up in cosine is a step up in accuracy.",
        "rank correlation of accuracy and cosine", 0.0, "", "above", "rank correlation",
    ),
    _rank_correlations,
)  # fmt: skip


def _saturation(facts: Facts) -> Iterator[Answer]:
    for place in places_of(facts):
        cosines = _cosines(facts, place)
        between = [cosine for cosine in cosines if 0 < cosine < 1]
        if not between or not {0.0, 1.0} <= set(cosines):
            continue
        middle = min(between, key=lambda cosine: abs(cosine - 0.5))
        first, second = 100 / middle, 100 / (1 - middle)
        weights = {0.0: -first, middle: first + second, 1.0: -second}
        samples = weighted_sum(
            facts, [Term(weight, place, cosines[cosine], ACCURACY) for cosine, weight in weights.items()]
        )
        if samples is not None:
            yield Answer(place, ALL_COSINES, samples)


SATURATES = Question(
    Claim(
        "accuracy-saturates", "Cosine",
        "Accuracy saturates: a moderate alignment already brings most of the gain.",
        "Gain in test accuracy per unit of cosine from 0 (random feedback) to the cosine nearest to 0.5, "
        "less the gain per unit from there to 1.",
        "difference of slopes", 0.0, "points per unit of cosine",
    ),
    _saturation,
)  # fmt: skip


def _alignment_change(facts: Facts) -> Iterator[Answer]:
    for place in places_of(facts):
        for rule in rules_at(facts, place):
            values = {}
            for seed in seeds_of(facts, place, rule):
                changes = list(_layer_changes(facts, place, rule, seed))
                if changes:
                    values[seed] = float(np.mean(changes))
            if values and rule != "bp":
                yield Answer(place, rule, Samples(values))


def _layer_changes(facts: Facts, place: Place, rule: str, seed: int) -> Iterator[float]:
    cosines = facts.pick(
        part=place.part, cell=place.cell, rule=rule, seed=seed, group="run", measure="cosine"
    )
    for layer in cosines.distinct("item"):
        ordered = sorted(
            (fact.setting.number("epoch"), fact.value)
            for fact in cosines.pick(item=layer)
            if np.isfinite(fact.value)
        )
        if len(ordered) > 1:
            yield ordered[-1][1] - ordered[0][1]


ALIGNMENT_LASTS = Question(
    Claim(
        "alignment-lasts", "Alignment",
        "Aligned once, forward and feedback weights stay aligned while the network learns.",
        "Cosine of W and B at the end of training less that at the start, mean over layers. It is kept if it "
        f"falls by less than {COSINE_MARGIN:g}.",
        "change of cosine", -COSINE_MARGIN, "",
    ),
    _alignment_change,
)  # fmt: skip

ALIGNMENT_QUESTIONS = (RISES_WITH_COSINE, SATURATES, ALIGNMENT_LASTS)
