"""What a figure shows, apart from how it is drawn: the page and the image files are drawn from the same.

And the numbers of a figure as tables: for who cannot see it, and for who wants to read them off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from statistics import fmean, stdev
from typing import Literal, NamedTuple

from alignonce.experiments.facts import Fact, Key
from alignonce.experiments.figures.style import label_of


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


class Statistics(NamedTuple):
    """Of one rule in a panel of dots; NaN where there is none."""

    mean: float
    deviation: float
    """Of the sample."""
    low: float
    """Of the interval: an estimate's own, else one deviation to each side of the mean."""
    high: float
    seeds: int


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

    @cached_property
    def statistics(self) -> dict[str, Statistics]:
        """Of a panel of dots, by rule: what image, page and table show of its seeds together."""
        intervals = {interval.rule: interval for interval in self.intervals}
        found: dict[str, Statistics] = {}
        for rule in dict.fromkeys([*self.rules, *intervals]):
            values = [s.y[0] for s in self.series if s.rule == rule and math.isfinite(s.y[0])]
            mean = fmean(values) if values else math.nan
            spread = stdev(values) if len(values) > 1 else math.nan
            if rule in intervals:
                _, mean, low, high = astuple(intervals[rule])
            elif self.intervals:
                mean, low, high = math.nan, math.nan, math.nan
            else:
                low, high = mean - spread, mean + spread
            found[rule] = Statistics(mean, spread, low, high, len(values))
        return found

    @cached_property
    def means(self) -> dict[str, tuple[tuple[float, float], ...]]:
        """Of a panel of lines, by rule: places and means over the seeds, from left to right."""
        return {rule: tuple(mean_line([s for s in self.series if s.rule == rule])) for rule in self.rules}

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
        Series(fact.rule, fact.seed, (scale * fact.value,), diverged=fact.key in diverged) for fact in facts
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


def mean_line(series: Sequence[Series]) -> Iterator[tuple[float, float]]:
    """Average lines over seeds, at each place that any of them has a finite value at.

    Args:
        series: of one rule.

    Yields:
        Place and mean, from left to right.
    """
    at: dict[float, list[float]] = {}
    for one in series:
        for x, y in zip(one.x, one.y, strict=True):
            if math.isfinite(y):
                at.setdefault(x, []).append(y)
    yield from ((x, fmean(at[x])) for x in sorted(at))


NONE = "\N{EN DASH}"
"""Stands where there is nothing."""


class NumberTable(NamedTuple):
    """One table; the first of each row names it."""

    caption: str
    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def number_tables(plot: Plot) -> list[NumberTable]:
    """Write the numbers of a figure.

    Args:
        plot: the figure.

    Returns:
        One table for each panel: of dots, means and standard deviations by rule; of lines, means by place.
    """
    return [
        _of_dots(panel, plot.rules) if panel.kind == "dots" else _of_lines(panel, plot.rules)
        for panel in plot.panels
    ]


def shown(value: float, digits: int = 3) -> str:
    """Write a number for people.

    Args:
        value: any number.
        digits: how many, unless there are more before the decimal point.

    Returns:
        The number; a dash for what is not finite.
    """
    if not math.isfinite(value):
        return NONE
    text = f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:#.{digits}g}".removesuffix(".")
    return "0" if value == 0 else text.replace("-", "\N{MINUS SIGN}")


def _of_dots(panel: Panel, rules: Sequence[str]) -> NumberTable:
    rows = []
    for rule in rules:
        found = panel.statistics.get(rule)
        if found is not None and found.seeds:
            numbers = shown(found.mean, panel.digits), shown(found.deviation), str(found.seeds)
            rows.append((label_of(rule), *numbers))
    return NumberTable(f"{panel.title}: {panel.values}", ("Rule", "Mean", "S.d.", "Seeds"), rows)


def _of_lines(panel: Panel, rules: Sequence[str]) -> NumberTable:
    means = {rule: dict(panel.means.get(rule, ())) for rule in rules}
    places = sorted({place for line in means.values() for place in line})
    rows = [
        (f"{place:g}", *(shown(means[rule].get(place, math.nan), panel.digits) for rule in rules))
        for place in places
    ]
    heads = (panel.along, *map(label_of, rules))
    return NumberTable(f"{panel.title}: {panel.values}, mean over seeds", heads, rows)
