"""All numbers of a study and of an analysis as tidy tables, and which test images each run got right."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
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


class Measured(NamedTuple):
    """One number of one run.

    `item` is the layer, attack or corruption that it is about, "" for the whole network. `setting` is made by
    `settings`: words such as `severity=3`, or `route=exact eps=0.0314`. `images` it was measured on.
    """

    measure: str
    item: str
    setting: str
    images: int
    value: float


class Row(NamedTuple):
    """One number of the table: `Measured`, and of which run and group; `step` of a checkpoint, or None."""

    run: str
    rule: str
    seed: int
    group: str
    measure: str
    item: str
    setting: str
    images: int
    value: float
    step: int | None = None


def settings(**values: str | float) -> str:
    """Write settings as one string.

    Args:
        values: names and values; a text must not hold spaces.

    Returns:
        Such as `route=exact eps=0.0313725`.
    """
    return " ".join(f"{k}={v if isinstance(v, str) else format(v, '.6g')}" for k, v in values.items())


def setting_of(row: Fact | Row, name: str, default: str | None = None) -> str:
    """Read one setting of a number.

    Args:
        row: the number.
        name: the setting's name.
        default: what is returned if it has no such setting.

    Returns:
        Its value, as text.

    Raises:
        KeyError: it has no such setting, and there is no default.
    """
    found = dict(part.split("=", 1) for part in row.setting.split(" ") if "=" in part)
    return found[name] if default is None else found.get(name, default)


class AnalysisTable:
    """Rows in the order of runs and groups, with a way to pick some."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._rows = list(rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def pick(self, **columns: object) -> AnalysisTable:
        """Keep the rows whose columns have these values.

        Args:
            columns: such as `group="curvature", measure="trace"`.

        Returns:
            The smaller table.
        """
        return AnalysisTable(r for r in self._rows if all(getattr(r, k) == v for k, v in columns.items()))

    def distinct(self, column: str) -> list[str]:
        """List the values of a text column, in the order of their first rows.

        Args:
            column: its name.

        Returns:
            Each value once.
        """
        return list(dict.fromkeys(getattr(row, column) for row in self._rows))

    @property
    def values(self) -> list[float]:
        """The values alone."""
        return [row.value for row in self._rows]

    def write_csv(self, path: Path) -> None:
        """Write the table with a header line; numbers are written so that they read back exactly.

        Args:
            path: the file.
        """
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(Row._fields)
            writer.writerows(self._rows)

    @classmethod
    def read_csv(cls, path: Path) -> AnalysisTable:
        """Read a table that `write_csv` wrote.

        Args:
            path: the file.

        Returns:
            The table.

        Raises:
            ValueError: the file is no such table.
        """
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != Row._fields:
                raise ValueError(f"{path} must begin with the columns {','.join(Row._fields)}")
            numbers: dict[str, Callable[[str], Any]] = {
                "seed": int, "images": int, "value": float, "step": lambda text: int(text) if text else None,
            }  # fmt: skip
            return cls(Row(**{k: numbers.get(k, str)(v) for k, v in line.items()}) for line in reader)
