"""All numbers of a study as one tidy table, and which test images each run got right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Key = tuple[str, str, str, int]
"""Of a run in a study: part, cell, rule, seed."""


class Fact(NamedTuple):
    """One number of one run.

    `part` of the study; `cell` of the part, such as `depth=10 shortcuts=false`, "" where the part varies
    nothing but rules and seeds. `group` is `run` for what training itself measured, else a group of the
    analysis. `item` is the layer, attack or corruption that it is about, "" for the whole network; `setting`
    holds words such as `severity=3` or `route=exact eps=0.0314`. `images` it was measured on, 0 for none.

    | group `run`: measure | item | setting | value |
    |---|---|---|---|
    | `test_accuracy`, `test_loss`, `train_accuracy`, `train_loss` | | | at the end; accuracy of a diverged run is chance, its losses are NaN |
    | `test_accuracy` | | `epoch=0.5` | on the way |
    | `cosine`, `angle_deg` | layer | `epoch=0.5` | alignment of W and B on the way, of the layers that send an error on |
    | `diverged` | | | 1 or 0 |
    | `seconds` | | | of training |
    """  # noqa: E501

    part: str
    cell: str
    rule: str
    seed: int
    group: str
    measure: str
    item: str
    setting: str
    images: int
    value: float


class Evidence:
    """The facts, in the order of the study, with a way to pick some.

    Args:
        facts: the numbers.
        correct: for each run, which test images it classified rightly, in the order of the data.
    """

    def __init__(
        self, facts: Iterable[Fact] = (), correct: Mapping[Key, NDArray[np.bool_]] | None = None
    ) -> None:
        self._facts = list(facts)
        self._correct = dict(correct or {})

    def __iter__(self) -> Iterator[Fact]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)

    def pick(self, **columns: object) -> Evidence:
        """Select facts.

        Args:
            columns: names of columns and the value that each must have.

        Returns:
            Those facts, with the same knowledge about test images.
        """
        places = [(Fact._fields.index(name), value) for name, value in columns.items()]
        chosen = (fact for fact in self._facts if all(fact[place] == value for place, value in places))
        return Evidence(chosen, self._correct)

    def distinct(self, column: str) -> list[Any]:
        """List the values of a column.

        Args:
            column: its name.

        Returns:
            Each value once, in order of appearance.
        """
        place = Fact._fields.index(column)
        return list(dict.fromkeys(fact[place] for fact in self._facts))

    def correct(self, part: str, cell: str, rule: str, seed: int) -> NDArray[np.bool_] | None:
        """Tell which test images a run classified rightly.

        Args:
            part: of the study.
            cell: of the part.
            rule: the learning rule.
            seed: the seed.

        Returns:
            (test images,) in the order of the data; None if it is not known.
        """
        return self._correct.get((part, cell, rule, seed))


def cell_settings(cell: str) -> dict[str, str]:
    """Read the name of a cell.

    Args:
        cell: such as `depth=10 shortcuts=false`.

    Returns:
        Such as `{"depth": "10", "shortcuts": "false"}`.
    """
    return dict(word.split("=", 1) for word in cell.split())
