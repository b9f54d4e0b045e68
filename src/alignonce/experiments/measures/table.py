"""The one tidy table of an analysis."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple


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


def setting_of(row: Row, name: str) -> str:
    """Read one setting of a row.

    Args:
        row: the row.
        name: the setting's name.

    Returns:
        Its value, as text.

    Raises:
        KeyError: the row has no such setting.
    """
    return dict(part.split("=", 1) for part in row.setting.split(" ") if "=" in part)[name]


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
