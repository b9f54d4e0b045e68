"""How a claim is put to the numbers of a study: where it applies, and what is computed there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from alignonce.experiments.claims.finding import Claim
from alignonce.experiments.claims.numbers import Numbers, Place, Quantity
from alignonce.experiments.claims.samples import Samples, Term, weighted_sum


class Answer(NamedTuple):
    """The values of a rule in a place, ready to be judged."""

    place: Place
    rule: str
    samples: Samples


@dataclass(frozen=True)
class Question:
    """A claim, and how to find its values: one answer for each place and rule that has what it takes."""

    claim: Claim
    answers: Callable[[Numbers], Iterator[Answer]]


def compared(
    claim: Claim,
    quantity: Quantity,
    *,
    factor: float = 1.0,
    relative_to: Quantity | None = None,
    remark: Callable[[Numbers, Place, str], tuple[str, ...]] = lambda numbers, place, rule: (),
) -> Question:
    """Compare a quantity of each rule with that of the claim's baseline, within a seed.

    Args:
        claim: a claim with a baseline, about a difference or a ratio.
        quantity: what to compare.
        factor: of a difference: 100 turns shares into points.
        relative_to: of a ratio: what each rule's quantity is divided by first.
        remark: what to say besides.

    Returns:
        The question.
    """

    def answers(numbers: Numbers) -> Iterator[Answer]:
        for place in numbers.places:
            for rule in others(numbers, place, claim.baseline):
                terms = [
                    Term(sign * weight, place, which, what)
                    for which, sign in ((rule, factor), (str(claim.baseline), -factor))
                    for what, weight in ((quantity, 1.0), (relative_to, -1.0))
                    if what is not None
                ]
                samples = weighted_sum(numbers, terms, logarithm=claim.kind == "ratio")
                if samples is not None:
                    notes = (*samples.notes, *remark(numbers, place, rule))
                    yield Answer(place, rule, Samples(samples.values, samples.noise, notes))

    return Question(claim, answers)


def others(numbers: Numbers, place: Place, baseline: str | None) -> list[str]:
    """List the rules that a baseline is compared with.

    Args:
        numbers: of the study.
        place: where.
        baseline: the rule.

    Returns:
        All rules but it; none if it is not there.
    """
    rules = numbers.rules(place)
    return [rule for rule in rules if rule != baseline] if baseline in rules else []
