"""The numbers of a figure as tables: for who cannot see it, and for who wants to read them off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from alignonce.experiments.figures.painting import mean_line
from alignonce.experiments.figures.panels import Panel, Plot
from alignonce.experiments.figures.rules import label_of

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
        values = [s.y[0] for s in panel.series if s.rule == rule and math.isfinite(s.y[0])]
        if values:
            spread = stdev(values) if len(values) > 1 else math.nan
            rows.append((label_of(rule), shown(fmean(values), panel.digits), shown(spread), str(len(values))))
    return NumberTable(f"{panel.title}: {panel.values}", ("Rule", "Mean", "S.d.", "Seeds"), rows)


def _of_lines(panel: Panel, rules: Sequence[str]) -> NumberTable:
    means = {rule: dict(mean_line([s for s in panel.series if s.rule == rule])) for rule in rules}
    places = sorted({place for line in means.values() for place in line})
    rows = [
        (f"{place:g}", *(shown(means[rule].get(place, math.nan), panel.digits) for rule in rules))
        for place in places
    ]
    heads = (panel.along, *map(label_of, rules))
    return NumberTable(f"{panel.title}: {panel.values}, mean over seeds", heads, rows)
