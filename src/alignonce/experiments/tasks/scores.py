"""The numbers that runs are compared by: one for each kind of task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Score:
    """A measurement of how good a network is, and how it is written."""

    metric: str
    """Its name among the measurements, and in the summary of a run."""
    title: str
    column: str
    """Its title where there is little space."""
    unit: str
    factor: float
    """From the measured value to the unit."""
    decimals: int
    lower_is_better: bool = False

    @property
    def axis(self) -> str:
        """Title, with unit and with what is better where that may surprise."""
        notes = ", ".join(filter(None, (self.unit, "lower is better" if self.lower_is_better else "")))
        return f"{self.title} ({notes})" if notes else self.title

    def text(self, values: Sequence[float | None]) -> str:
        """Write the mean of several runs, with its sample deviation.

        Args:
            values: as measured; None does not count.

        Returns:
            Such as `87.1% ± 0.3`; `-` for no values.
        """
        known = [self.factor * value for value in values if value is not None]
        percent, decimals = self.unit if self.unit == "%" else "", self.decimals
        if not known:
            return "-"
        if len(known) == 1:
            return f"{known[0]:.{decimals + 1}f}{percent}"
        return f"{fmean(known):.{decimals}f}{percent} ± {stdev(known):.{decimals}f}"


ACCURACY = Score("test_accuracy", "test accuracy", "test acc.", "%", 100, 1)
BITS_PER_BYTE = Score("test_bits_per_byte", "bits per byte", "bits/byte", "", 1, 3, lower_is_better=True)
VARIANCE_EXPLAINED = Score("test_r2", "variance explained", "R²", "", 1, 3)
