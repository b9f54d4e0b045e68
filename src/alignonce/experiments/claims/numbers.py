"""The numbers of a study, ready to be looked up by run and measure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignonce.experiments.facts import Evidence, Fact


class Place(NamedTuple):
    """Where in a study: a part, and a cell of it."""

    part: str
    cell: str


class Quantity(NamedTuple):
    """What is looked up of a run; `setting` holds the words that the fact's setting must have."""

    group: str
    measure: str
    item: str = ""
    setting: str = ""
    share_of_images: bool = False
    """Whether the value is a share of `Fact.images`, so that other images would have given another one."""


ACCURACY = Quantity("run", "test_accuracy", share_of_images=True)
_DIVERGED = Quantity("run", "diverged")
_Key = tuple[Place, str, int, str, str, str]


class Numbers:
    """An index of evidence.

    Args:
        evidence: of a study.
    """

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._facts: dict[_Key, list[Fact]] = {}
        self._seeds: dict[Place, dict[str, dict[int, None]]] = {}
        for fact in evidence:
            place = Place(fact.part, fact.cell)
            key = (place, fact.rule, fact.seed, fact.group, fact.measure, fact.item)
            self._facts.setdefault(key, []).append(fact)
            self._seeds.setdefault(place, {}).setdefault(fact.rule, {})[fact.seed] = None

    @property
    def places(self) -> list[Place]:
        """All parts and cells, in the order of the study."""
        return list(self._seeds)

    def rules(self, place: Place) -> list[str]:
        """List the learning rules of a place.

        Args:
            place: the part and cell.

        Returns:
            Those that there are numbers of.
        """
        return list(self._seeds.get(place, {}))

    def seeds(self, place: Place, rule: str) -> list[int]:
        """List the seeds of a rule.

        Args:
            place: the part and cell.
            rule: the learning rule.

        Returns:
            Those that there are numbers of.
        """
        return list(self._seeds.get(place, {}).get(rule, {}))

    def all(self, place: Place, rule: str, seed: int, quantity: Quantity) -> list[Fact]:
        """Look up every fact of a quantity.

        Args:
            place: the part and cell.
            rule: the learning rule.
            seed: of the run.
            quantity: what to look up.

        Returns:
            The facts, in order. A quantity without a setting is met by any.
        """
        facts = self._facts.get((place, rule, seed, quantity.group, quantity.measure, quantity.item), [])
        words = set(quantity.setting.split())
        return [fact for fact in facts if words <= set(fact.setting.split())]

    def one(self, place: Place, rule: str, seed: int, quantity: Quantity) -> Fact | None:
        """Look up one number; of a run's own measures, the one at the end unless a setting says otherwise.

        Args:
            place: the part and cell.
            rule: the learning rule.
            seed: of the run.
            quantity: what to look up.

        Returns:
            The fact, or None if there is none.
        """
        facts = self.all(place, rule, seed, quantity)
        if quantity.group == "run" and not quantity.setting:
            facts = [fact for fact in facts if not fact.setting]
        return facts[0] if facts else None

    def diverged(self, place: Place, rule: str, seed: int) -> bool:
        """Tell whether a run diverged.

        Args:
            place: the part and cell.
            rule: the learning rule.
            seed: of the run.

        Returns:
            True if it is known that it did.
        """
        fact = self.one(place, rule, seed, _DIVERGED)
        return fact is not None and fact.value == 1

    def correct(self, place: Place, rule: str, seed: int) -> NDArray[np.bool_] | None:
        """Tell which test images a run classified rightly.

        Args:
            place: the part and cell.
            rule: the learning rule.
            seed: of the run.

        Returns:
            (test images,), or None: it is not known, or the run diverged, so that its accuracy is set to
            chance.
        """
        return None if self.diverged(place, rule, seed) else self._evidence.correct(*place, rule, seed)

    def layers(self, place: Place, rule: str, seed: int, group: str, measure: str) -> Iterator[str]:
        """Name the layers that a measure was taken of.

        Args:
            place: the part and cell.
            rule: the learning rule.
            seed: of the run.
            group: of the measure.
            measure: its name.

        Yields:
            The layers.
        """
        for key in self._facts:
            if key[:5] == (place, rule, seed, group, measure):
                yield key[5]
