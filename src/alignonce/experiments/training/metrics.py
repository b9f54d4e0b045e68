"""What a run measured, as one tidy table."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from alignonce.experiments.facts import Fact, whole_lines
from alignonce.experiments.setting import Setting

COLUMNS = ("step", "epoch", "metric", "layer", "value")


class Measurement(NamedTuple):
    """One number: after `step` updates, that is `epoch` passes (a fraction too), in `layer` ("" for none)."""

    step: int
    epoch: float
    metric: str
    layer: str
    value: float


class Metrics:
    """All measurements of a run, in the order they were made.

    | metric | layer | value |
    |---|---|---|
    | `step_loss` | | loss of the batch that the step learnt from |
    | `train_loss`, `train_accuracy` | | means over an epoch's batches, each before its step |
    | `test_loss`, `test_accuracy` | | on all test images |
    | `test_bits_per_byte`, `test_r2` | | of a language model; the variance that a regression explains |
    | `cosine`, `angle_deg` | name | alignment of the layer's forward and feedback weight |
    | `seconds` | | wall clock since the start of training, measurements included |
    """

    def __init__(self, rows: Iterable[Measurement] = ()) -> None:
        self._rows = list(rows)

    def __iter__(self) -> Iterator[Measurement]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Metrics) and self._rows == other._rows

    def extend(self, rows: Iterable[Measurement]) -> None:
        """Append measurements.

        Args:
            rows: the measurements.
        """
        self._rows.extend(rows)

    def layers(self, metric: str) -> list[str]:
        """Name the layers that a metric was measured in.

        Args:
            metric: such as `cosine`.

        Returns:
            The layers, from input to output.
        """
        return list(dict.fromkeys(row.layer for row in self._rows if row.metric == metric))

    def series(self, metric: str, layer: str = "") -> tuple[list[float], list[float]]:
        """Return one metric over training.

        Args:
            metric: its name.
            layer: the layer, "" for a metric of the whole network.

        Returns:
            Epochs and values, of equal length.
        """
        rows = [row for row in self._rows if row.metric == metric and row.layer == layer]
        return [row.epoch for row in rows], [row.value for row in rows]

    def last(self, metric: str, layer: str = "") -> float | None:
        """Return the newest value of a metric.

        Args:
            metric: its name.
            layer: the layer, "" for a metric of the whole network.

        Returns:
            The value, or None if it was never measured.
        """
        values = self.series(metric, layer)[1]
        return values[-1] if values else None

    def facts(self, metric: str, layer: str = "") -> list[Fact]:
        """List the measurements of one metric, as the table of all numbers has them.

        Args:
            metric: its name.
            layer: the layer, "" for a metric of the whole network.

        Returns:
            The facts, of no run yet.
        """
        return [
            Fact(
                measure=metric, item=layer, setting=Setting.of(epoch=row.epoch), step=row.step,
                value=row.value,
            )
            for row in self._rows
            if row.metric == metric and row.layer == layer
        ]  # fmt: skip

    def write_csv(self, path: Path) -> None:
        """Write the table with a header line; numbers are written so that they read back exactly.

        Args:
            path: the file.
        """
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(self._rows)

    @classmethod
    def read_csv(cls, path: Path) -> Metrics:
        """Read a table that `write_csv` wrote.

        Args:
            path: the file.

        Returns:
            The measurements.

        Raises:
            ValueError: the file is no such table.
        """
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(whole_lines(file))
            try:
                if tuple(next(reader, ())) != COLUMNS:
                    raise ValueError(f"it must begin with the columns {','.join(COLUMNS)}")
                return cls(
                    Measurement(int(step), float(epoch), metric, layer, float(value))
                    for step, epoch, metric, layer, value in reader
                )
            except (ValueError, csv.Error) as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from error


def angle_deg(cosine: float) -> float:
    """Return the angle of a cosine.

    Args:
        cosine: rounding may leave it a little outside [-1, 1].

    Returns:
        Degrees in [0, 180]; NaN for NaN.
    """
    if math.isnan(cosine):
        return math.nan
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))
