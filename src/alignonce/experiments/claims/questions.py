"""A claim, how it is put to the numbers of a study, and what is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from alignonce.experiments.claims.numbers import Place, Quantity, places_of, rules_at
from alignonce.experiments.claims.samples import Samples, Term, weighted_sum
from alignonce.experiments.facts import Facts

Kind = Literal["difference", "ratio", "rank correlation"]
Verdict = Literal["supported", "not supported", "inconclusive"]
SIGNS: dict[Verdict, str] = {"supported": "✓", "not supported": "✗", "inconclusive": "?"}
VERDICTS: tuple[Verdict, ...] = ("supported", "not supported", "inconclusive")


@dataclass(frozen=True)
class Claim:
    """A sentence that numbers can speak for or against."""

    id: str
    section: str
    sentence: str
    """Words in “ ” are of the paper's abstract (Cheon, Bae and Paik 2025, arXiv 2505.20892); the rest is
    ours, sharpened until it can be measured."""
    measured: str
    """What is measured, for a student."""
    statistic: str
    """Its name in a few words, such as `difference of test accuracy`."""
    threshold: float
    """In `unit`, as the estimate is."""
    unit: str
    """Such as `points`; "" for a number without one."""
    side: Literal["above", "below"] = "above"
    """Of the threshold, where the claim holds."""
    kind: Kind = "difference"
    baseline: str | None = None
    """The rule that each rule is compared with."""


@dataclass(frozen=True)
class Finding:
    """What one rule's runs in one place of the study say about one claim.

    `estimate`, the 95% interval `low` to `high`, and `per_seed` are in the claim's unit; a ratio's estimate
    is the geometric mean over seeds. The interval is NaN for fewer than two seeds, the estimate for none.
    """

    claim: str
    """The claim's id."""
    part: str
    cell: str
    """Of the part; `depth=2..30` where cells are compared."""
    rule: str
    """`soft` where random feedback and all cosines of soft alignment are taken together."""
    baseline: str | None
    estimate: float
    low: float
    high: float
    per_seed: Mapping[int, float]
    verdict: Verdict
    seeds_needed: int | None = None
    """How many seeds would decide, if estimate and spread stay: None if decided, or if no number would do."""
    note: str = ""


class Answer(NamedTuple):
    """The values of a rule in a place, ready to be judged."""

    place: Place
    rule: str
    samples: Samples


@dataclass(frozen=True)
class Question:
    """A claim, and how to find its values: one answer for each place and rule that has what it takes."""

    claim: Claim
    answers: Callable[[Facts], Iterator[Answer]]


def compared(
    claim: Claim,
    quantity: Quantity,
    *,
    factor: float = 1.0,
    relative_to: Quantity | None = None,
) -> Question:
    """Compare a quantity of each rule with that of the claim's baseline, within a seed.

    Args:
        claim: a claim with a baseline, about a difference or a ratio.
        quantity: what to compare.
        factor: of a difference: 100 turns shares into points.
        relative_to: of a ratio: what each rule's quantity is divided by first.

    Returns:
        The question.
    """

    def answers(facts: Facts) -> Iterator[Answer]:
        for place in places_of(facts):
            for rule in others(facts, place, claim.baseline):
                terms = [
                    Term(sign * weight, place, which, what)
                    for which, sign in ((rule, factor), (str(claim.baseline), -factor))
                    for what, weight in ((quantity, 1.0), (relative_to, -1.0))
                    if what is not None
                ]
                samples = weighted_sum(facts, terms, logarithm=claim.kind == "ratio")
                if samples is not None:
                    yield Answer(place, rule, samples)

    return Question(claim, answers)


def others(facts: Facts, place: Place, baseline: str | None) -> list[str]:
    """List the rules that a baseline is compared with.

    Args:
        facts: of the study.
        place: where.
        baseline: the rule.

    Returns:
        All rules but it; none if it is not there.
    """
    rules = rules_at(facts, place)
    return [rule for rule in rules if rule != baseline] if baseline in rules else []
