"""The one table of numbers: whatever was measured of a run is a fact, from the measurement to the report."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignonce.experiments.setting import NO_SETTING, Setting

if TYPE_CHECKING:
    from alignonce.diagnostics import Row

FORMAT = 2
"""Of the table on disk: the columns of `Fact`. Tables of format 1 are still read."""

Key = tuple[str, str, str, int]
"""Of a run in a study: part, cell, rule, seed."""

USUAL_EPS = 8 / 255
"""The radius, of pixels in [0, 1], that attacks are summed up and judged at."""


class Fact(NamedTuple):
    """One number of one run; what does not apply, or is not known yet, is left out.

    | group `run`: measure | item | setting | value |
    |---|---|---|---|
    | `test_accuracy`, `test_loss`, `train_accuracy`, `train_loss` | | | at the end; accuracy of a diverged run is chance, its losses are NaN |
    | `test_accuracy` | | `epoch=0.5` | on the way |
    | `cosine`, `angle_deg` | layer | `epoch=0.5` | alignment of W and B on the way, of the layers that send an error on |
    | `diverged` | | | 1 or 0 |
    | `seconds` | | | of training |
    """  # noqa: E501

    part: str = ""
    """Of the study."""
    cell: str = ""
    """Of the part, such as `depth=10 shortcuts=false`; "" where it varies nothing but rules and seeds."""
    run: str = ""
    """The name of its folder."""
    rule: str = ""
    seed: int = 0
    group: str = ""
    """`run` for what training itself measured, else a group of the analysis."""
    measure: str = ""
    item: str = ""
    """The layer, attack or corruption that it is about; "" for the whole network."""
    setting: Setting = NO_SETTING
    step: int | None = None
    """Updates made, of a number on the way; None: at the end."""
    images: int = 0
    """That it was measured on; 0 for none."""
    value: float = math.nan

    @classmethod
    def of_row(cls, row: Row) -> Fact:
        """Take over what a tracker or another diagnostic measured.

        Args:
            row: one number; layers become items.

        Returns:
            The fact, of no run yet.
        """
        return cls(measure=row.measure, item=row.layer, step=row.step, value=row.value)

    @property
    def key(self) -> Key:
        """Which run of a study it is about."""
        return self.part, self.cell, self.rule, self.seed


# Format 1, recognised by its header: numbers.csv of a report, and analysis.csv.
_EARLIER = (
    ("part", "cell", "rule", "seed", "group", "measure", "item", "setting", "images", "value"),
    ("run", "rule", "seed", "group", "measure", "item", "setting", "images", "value", "step"),
)
_READ: dict[str, Callable[[str], Any]] = {
    "seed": int, "images": int, "value": float, "setting": Setting.parse,
    "step": lambda text: int(text) if text else None,
}  # fmt: skip


class Facts:
    """A table of facts, in their order, with ways to pick some.

    Args:
        facts: the numbers.
        correct: for each run, which test images it classified rightly, in the order of the data.
    """

    def __init__(
        self, facts: Iterable[Fact] = (), correct: Mapping[Key, NDArray[np.bool_]] | None = None
    ) -> None:
        self._facts = list(facts)
        self._correct = dict(correct or {})
        # For each choice of columns that was picked by: the facts by the values of these columns.
        self._by: dict[tuple[str, ...], dict[tuple[object, ...], list[Fact]]] = {}

    def __iter__(self) -> Iterator[Fact]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)

    @property
    def values(self) -> list[float]:
        """The values alone."""
        return [fact.value for fact in self._facts]

    def pick(self, **columns: object) -> Facts:
        """Select facts; all that are picked by the same columns cost one pass over the table.

        Args:
            columns: names of columns and the value that each must have.

        Returns:
            Those facts, with the same knowledge about test images.
        """
        names = tuple(columns)
        if names not in self._by:
            by: dict[tuple[object, ...], list[Fact]] = {}
            for fact in self._facts:
                by.setdefault(tuple(getattr(fact, name) for name in names), []).append(fact)
            self._by[names] = by
        return self._with(self._by[names].get(tuple(columns.values()), []))

    def where(self, keep: Callable[[Fact], bool]) -> Facts:
        """Select facts by a test.

        Args:
            keep: whether a fact is kept.

        Returns:
            Those facts, with the same knowledge about test images.
        """
        return self._with([fact for fact in self._facts if keep(fact)])

    def having(self, setting: Setting) -> Facts:
        """Select facts by entries of their settings.

        Args:
            setting: the entries that each must have.

        Returns:
            Those facts, with the same knowledge about test images.
        """
        return self.where(lambda fact: fact.setting.includes(setting)) if setting.entries else self

    def distinct(self, *columns: str) -> list[Any]:
        """List the values of a column, or of several together.

        Args:
            columns: their names.

        Returns:
            Each value (of several columns: each tuple) once, in order of appearance.
        """
        return list(dict.fromkeys(map(attrgetter(*columns), self._facts)))

    def last(self, **columns: object) -> Fact | None:
        """Find the newest fact.

        Args:
            columns: names of columns and the value that each must have.

        Returns:
            The last that `pick` would select, or None.
        """
        return next(reversed(self.pick(**columns)._facts), None)

    def correct(self, part: str, cell: str, rule: str, seed: int) -> NDArray[np.bool_] | None:
        """Look up which test images a run classified rightly.

        Args:
            part: of the study.
            cell: of the part.
            rule: the learning rule.
            seed: the seed.

        Returns:
            (test images,) in the order of the data; None if it is not known.
        """
        return self._correct.get((part, cell, rule, seed))

    def columns(self) -> dict[str, list[Any]]:
        """List the table by columns, as it is on disk.

        Returns:
            For each column its texts or numbers; a number may be None.
        """
        found: dict[str, list[Any]] = {n: [getattr(f, n) for f in self._facts] for n in Fact._fields}
        return found | {"setting": [str(setting) for setting in found["setting"]]}

    def write_csv(self, path: Path) -> None:
        """Write the table with a header line; numbers are written so that they read back exactly.

        Args:
            path: the file.
        """
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(Fact._fields)
            # csv writes a setting by its text, and None as nothing.
            writer.writerows(self._facts)

    @classmethod
    def read_csv(cls, path: Path) -> Facts:
        """Read a table that `write_csv` wrote, or an earlier version did; the header shows which.

        Args:
            path: the file.

        Returns:
            The table.

        Raises:
            ValueError: the file is no such table, or ends within a line.
        """
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(whole_lines(file))
            try:
                names = tuple(next(reader, ()))
                if names not in (Fact._fields, *_EARLIER):
                    raise ValueError(f"it must begin with the columns {','.join(Fact._fields)}")
                read = [(name, _READ.get(name, str)) for name in names]
                return cls(
                    Fact(**{name: convert(text) for (name, convert), text in zip(read, line, strict=True)})
                    for line in reader
                )
            except (ValueError, csv.Error) as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from error

    def _with(self, facts: list[Fact]) -> Facts:
        picked = Facts()
        picked._facts, picked._correct = facts, self._correct
        return picked


def whole_lines(lines: Iterable[str]) -> Iterator[str]:
    """Refuse a file that was cut off.

    Args:
        lines: of a file.

    Yields:
        The lines.

    Raises:
        ValueError: one does not end.
    """
    for line in lines:
        if not line.endswith("\n"):
            raise ValueError("the file ends within this line")
        yield line


def cell_settings(cell: str) -> dict[str, str]:
    """Read the name of a cell.

    Args:
        cell: such as `depth=10 shortcuts=false`.

    Returns:
        Such as `{"depth": "10", "shortcuts": "false"}`.
    """
    return dict(word.split("=", 1) for word in cell.split())
