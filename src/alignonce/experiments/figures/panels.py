"""What a figure shows, apart from how it is drawn: the page and the image files are drawn from the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from alignonce.experiments.facts import Fact, Key


@dataclass(frozen=True)
class Series:
    """The numbers of one run in one panel."""

    rule: str
    seed: int
    y: tuple[float, ...]
    x: tuple[float, ...] = ()
    """As many as `y` in a panel of lines; none in a panel of dots."""
    diverged: bool = False


@dataclass(frozen=True)
class Interval:
    """An estimate for one rule, from all its seeds together, with its interval; NaN where there is none."""

    rule: str
    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    In a panel of dots each rule has a row, and `values` runs along it. In a panel of lines `values` goes up,
    and `along` says what runs from left to right.
    """

    title: str
    kind: Literal["dots", "lines"]
    values: str
    series: tuple[Series, ...]
    along: str = ""
    log: bool = False
    log_along: bool = False
    mark: float | None = None
    """A value to compare with, such as a threshold or chance."""
    mark_label: str = ""
    intervals: tuple[Interval, ...] = ()
    """Left empty, means over the seeds are drawn."""
    digits: int = 3
    """How exactly the numbers are written beneath."""

    @property
    def rules(self) -> tuple[str, ...]:
        """The learning rules in it, in order of appearance."""
        return tuple(dict.fromkeys(series.rule for series in self.series))

    @property
    def has_numbers(self) -> bool:
        """Whether there is anything to draw."""
        return bool(self.intervals) or any(
            math.isfinite(y) and (y > 0 or not self.log) for series in self.series for y in series.y
        )


@dataclass(frozen=True)
class Plot:
    """One figure: panels that belong together."""

    name: str
    """Of its files, and of its place on the page: lower-case letters, digits and hyphens."""
    title: str
    caption: str
    panels: tuple[Panel, ...]
    folded: bool = False
    """Whether the page shows it only on demand."""

    @property
    def drawable(self) -> Plot | None:
        """The figure without panels that would be empty; None if no panel is left."""
        panels = tuple(panel for panel in self.panels if panel.has_numbers)
        return replace(self, panels=panels) if panels else None

    @property
    def rules(self) -> tuple[str, ...]:
        """The learning rules in it, in order of appearance."""
        return tuple(dict.fromkeys(rule for panel in self.panels for rule in panel.rules))


def dots(
    facts: Iterable[Fact], scale: float = 1.0, diverged: frozenset[Key] = frozenset()
) -> tuple[Series, ...]:
    """Make a series of one value for each fact.

    Args:
        facts: of one measure.
        scale: what values are multiplied by, such as 100 for per cent.
        diverged: (part, cell, rule, seed) of runs that diverged.

    Returns:
        The series.
    """
    return tuple(
        Series(fact.rule, fact.seed, (scale * fact.value,), diverged=fact[:4] in diverged) for fact in facts
    )


def lines(facts: Iterable[Fact], place: Callable[[Fact], float], scale: float = 1.0) -> tuple[Series, ...]:
    """Make one series for each run: the means of its facts at each place, from left to right.

    Args:
        facts: of one measure.
        place: where a fact lies.
        scale: what values are multiplied by.

    Returns:
        The series.
    """
    runs: dict[tuple[str, int], dict[float, list[float]]] = {}
    for fact in facts:
        runs.setdefault((fact.rule, fact.seed), {}).setdefault(place(fact), []).append(scale * fact.value)
    return tuple(
        Series(rule, seed, tuple(sum(at[x]) / len(at[x]) for x in sorted(at)), tuple(sorted(at)))
        for (rule, seed), at in runs.items()
    )
