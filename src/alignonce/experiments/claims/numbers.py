"""How claims look up the numbers of a study: by place, rule, seed and quantity."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignonce.experiments.facts import Fact, Facts
from alignonce.experiments.setting import NO_SETTING, Setting


class Place(NamedTuple):
    """Where in a study: a part, and a cell of it."""

    part: str
    cell: str


class Quantity(NamedTuple):
    """What is looked up of a run; `setting` holds the entries that the fact's setting must have."""

    group: str
    measure: str
    item: str = ""
    setting: Setting = NO_SETTING
    share_of_images: bool = False
    """Whether the value is a share of `Fact.images`, so that other images would have given another one."""


ACCURACY = Quantity("run", "test_accuracy", share_of_images=True)
_DIVERGED = Quantity("run", "diverged")


def places_of(facts: Facts) -> list[Place]:
    """List all parts and cells.

    Args:
        facts: of a study.

    Returns:
        The places, in the order of the study.
    """
    return [Place(*place) for place in facts.distinct("part", "cell")]


def rules_at(facts: Facts, place: Place) -> list[str]:
    """List the learning rules of a place.

    Args:
        facts: of a study.
        place: the part and cell.

    Returns:
        Those that there are numbers of.
    """
    return facts.pick(part=place.part, cell=place.cell).distinct("rule")


def seeds_of(facts: Facts, place: Place, rule: str) -> list[int]:
    """List the seeds of a rule.

    Args:
        facts: of a study.
        place: the part and cell.
        rule: the learning rule.

    Returns:
        Those that there are numbers of.
    """
    return facts.pick(part=place.part, cell=place.cell, rule=rule).distinct("seed")


def find_all(facts: Facts, place: Place, rule: str, seed: int, quantity: Quantity) -> Facts:
    """Look up every fact of a quantity.

    Args:
        facts: of a study.
        place: the part and cell.
        rule: the learning rule.
        seed: of the run.
        quantity: what to look up.

    Returns:
        The facts, in order. A quantity without a setting is met by any.
    """
    found = facts.pick(
        part=place.part, cell=place.cell, rule=rule, seed=seed,
        group=quantity.group, measure=quantity.measure, item=quantity.item,
    )  # fmt: skip
    return found.having(quantity.setting)


def find(facts: Facts, place: Place, rule: str, seed: int, quantity: Quantity) -> Fact | None:
    """Look up one number; of a run's own measures, the one at the end unless a setting says otherwise.

    Args:
        facts: of a study.
        place: the part and cell.
        rule: the learning rule.
        seed: of the run.
        quantity: what to look up.

    Returns:
        The fact, or None if there is none.
    """
    found = find_all(facts, place, rule, seed, quantity)
    if quantity.group == "run" and quantity.setting == NO_SETTING:
        found = found.pick(setting=NO_SETTING)
    return next(iter(found), None)


def has_diverged(facts: Facts, place: Place, rule: str, seed: int) -> bool:
    """Return whether a run is known to have diverged.

    Args:
        facts: of a study.
        place: the part and cell.
        rule: the learning rule.
        seed: of the run.

    Returns:
        True if it did.
    """
    fact = find(facts, place, rule, seed, _DIVERGED)
    return fact is not None and fact.value == 1


def right_images(facts: Facts, place: Place, rule: str, seed: int) -> NDArray[np.bool_] | None:
    """Look up which test images a run classified rightly.

    Args:
        facts: of a study.
        place: the part and cell.
        rule: the learning rule.
        seed: of the run.

    Returns:
        (test images,), or None: it is not known, or the run diverged, so that its accuracy is set to chance.
    """
    return None if has_diverged(facts, place, rule, seed) else facts.correct(*place, rule, seed)
