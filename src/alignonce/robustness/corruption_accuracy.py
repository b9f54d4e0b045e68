"""Accuracy under corruptions, and how much of it a reference model keeps."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from torch import Tensor, nn

from alignonce.robustness.checks import check_choice
from alignonce.robustness.corruptions import corrupt
from alignonce.robustness.severities import CORRUPTIONS, SEVERITIES
from alignonce.robustness.state import accuracy, evaluating
from alignonce.summary import table

__all__ = [
    "CorruptedImages",
    "CorruptionReport",
    "CorruptionRow",
    "RelativeRobustness",
    "corrupted_set_accuracy",
    "corruption_accuracy",
]


@dataclass(frozen=True, eq=False)
class CorruptedImages:
    """Images of one corruption at one severity, with their labels."""

    corruption: str
    severity: int
    images: Tensor
    """Pixels in [0, 1], shape (N, C, H, W)."""
    labels: Tensor
    """Class numbers, shape (N,)."""


@dataclass(frozen=True)
class CorruptionRow:
    """Accuracy in [0, 1] under one corruption at one severity."""

    corruption: str
    severity: int
    accuracy: float


@dataclass(frozen=True)
class RelativeRobustness:
    """Errors under corruption as ratios to a reference model's: below 1 is more robust than it."""

    mce: float
    """Mean over corruptions of the ratio of errors (mCE); NaN if the reference makes no error."""
    relative_mce: float
    """Likewise of the errors that corruption adds to the clean error (relative mCE); NaN if it adds none."""
    by_corruption: dict[str, tuple[float, float]]
    """The two ratios of each corruption."""


@dataclass(frozen=True)
class CorruptionReport:
    """A model's accuracy under corruptions; prints as a table."""

    clean_accuracy: float
    rows: tuple[CorruptionRow, ...]

    @property
    def mean_accuracy(self) -> float:
        """Mean over corruptions of the mean over severities."""
        return fmean(fmean(row.accuracy for row in rows) for rows in self._by_corruption().values())

    def relative_to(self, reference: "CorruptionReport") -> RelativeRobustness:
        """Compare with a reference model's report on the same corruptions and severities.

        Args:
            reference: the report of the reference model, such as one trained with backpropagation.

        Returns:
            mCE and relative mCE, with the reference in AlexNet's place, as ratios (1, not 100 %).

        Raises:
            ValueError: if the two reports do not have the same corruptions and severities.

        Source: Hendrycks & Dietterich 2019, arXiv 1903.12261, section 4.2.
        """
        ours, theirs = self._by_corruption(), reference._by_corruption()
        conditions = [{(row.corruption, row.severity) for row in report.rows} for report in (self, reference)]
        if conditions[0] != conditions[1]:
            odd = sorted(conditions[0] ^ conditions[1])
            raise ValueError(f"the reports must have the same corruptions and severities; only in one: {odd}")
        ratios = {}
        for name, rows in ours.items():
            errors = [sum(1 - row.accuracy for row in part) for part in (rows, theirs[name])]
            added = [
                error - len(rows) * (1 - report.clean_accuracy)
                for error, report in zip(errors, (self, reference), strict=True)
            ]
            ratios[name] = (_ratio(*errors), _ratio(*added))
        return RelativeRobustness(
            fmean(r[0] for r in ratios.values()), fmean(r[1] for r in ratios.values()), ratios
        )

    def _by_corruption(self) -> dict[str, list[CorruptionRow]]:
        groups: dict[str, list[CorruptionRow]] = {}
        for row in self.rows:
            groups.setdefault(row.corruption, []).append(row)
        return groups

    def __str__(self) -> str:
        severities = sorted({row.severity for row in self.rows})
        body = []
        for name, rows in self._by_corruption().items():
            cells = {row.severity: f"{row.accuracy:.3f}" for row in rows}
            mean = fmean(row.accuracy for row in rows)
            body.append((name, *(cells.get(s, "") for s in severities), f"{mean:.3f}"))
        body.append(("mean", *[""] * len(severities), f"{self.mean_accuracy:.3f}"))
        body.append(("clean", *[""] * len(severities), f"{self.clean_accuracy:.3f}"))
        return table(("corruption", *map(str, severities), "mean"), body)


def corruption_accuracy(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    corruptions: Sequence[str] = CORRUPTIONS,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    batch_size: int = 256,
) -> CorruptionReport:
    """Measure a model's accuracy under corruptions of clean images.

    Models that are given the same images, seed and corruptions see the same pixels.

    Args:
        model: maps raw pixels (N, C, H, W) to logits (N, classes); its state is left as it was.
        images: clean pixels in [0, 1], shape (N, C, H, W).
        labels: class numbers, shape (N,).
        corruptions: names from ``CORRUPTIONS``.
        severities: numbers from 1 to 5.
        seed: decides what is random in the corruptions.
        batch_size: images in one forward pass.

    Returns:
        A row for each corruption and severity, and the clean accuracy.

    Raises:
        ValueError: if an argument is not as said above.
        ImportError: if kornia is not installed.

    Source: Hendrycks & Dietterich 2019, arXiv 1903.12261.
    """
    for name in corruptions:
        check_choice("corruption", name, CORRUPTIONS)
    for severity in severities:
        check_choice("severity", severity, SEVERITIES)

    def sets() -> Iterator[CorruptedImages]:
        for name in corruptions:
            for severity in severities:
                yield CorruptedImages(name, severity, corrupt(images, name, severity, seed), labels)

    return corrupted_set_accuracy(model, sets(), images, labels, batch_size=batch_size)


def corrupted_set_accuracy(
    model: nn.Module,
    sets: Iterable[CorruptedImages],
    images: Tensor,
    labels: Tensor,
    *,
    batch_size: int = 256,
) -> CorruptionReport:
    """Measure a model's accuracy on images that are corrupted already, such as CIFAR-10-C.

    Args:
        model: maps raw pixels (N, C, H, W) to logits (N, classes); its state is left as it was.
        sets: the corrupted images; an iterator is read one set at a time.
        images: the clean pixels in [0, 1] that the clean accuracy is measured on, shape (N, C, H, W).
        labels: their class numbers, shape (N,).
        batch_size: images in one forward pass.

    Returns:
        A row for each set, and the clean accuracy.

    Raises:
        ValueError: if images or labels are not as said above, or there are no sets.
    """
    with evaluating(model):
        clean = accuracy(model, images, labels, batch_size)
        rows = tuple(
            CorruptionRow(s.corruption, s.severity, accuracy(model, s.images, s.labels, batch_size))
            for s in sets
        )
    if not rows:
        raise ValueError("there must be at least one corruption and severity")
    return CorruptionReport(clean, rows)


def _ratio(ours: float, reference: float) -> float:
    # Errors are sums of fractions: a reference error of zero shows as rounding, not as 0.
    return ours / reference if abs(reference) > 1e-9 else math.nan
