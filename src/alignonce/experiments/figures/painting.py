"""Figures as image files."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from alignonce.experiments.figures.panels import Panel, Plot, Series
from alignonce.experiments.figures.style import label_of, rule_color, style

_WIDTH = 9.0
_COLUMNS = 3
_GRID = 6
"""Columns of the grid: rows have one, two or three panels."""
_LETTERS = 165
"""Of a caption, on one line."""
_MOST_TICKS = 11
_ROW = 0.26
"""Inches that one rule takes in a panel of dots."""


def draw_plot(plot: Plot) -> Figure:
    """Draw a figure.

    Args:
        plot: with one panel or more.

    Returns:
        The figure, 9 inches wide.
    """
    dots = all(panel.kind == "dots" for panel in plot.panels)
    rows = list(_rows(plot.panels, apart=dots))
    shown = [[r for r in plot.rules if any(r in panel.rules for panel in row.panels)] for row in rows]
    heights = [0.85 + _ROW * len(rules) if dots else 2.5 for rules in shown]
    caption = textwrap.wrap(plot.caption, _LETTERS)
    with style():
        figure = Figure(
            figsize=(
                _WIDTH if len(plot.panels) > 1 else 0.75 * _WIDTH,
                0.75 + 0.14 * len(caption) + sum(heights),
            ),
            layout="constrained",
        )
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(len(rows), _GRID, height_ratios=heights)
        for level, (row, rules) in enumerate(zip(rows, shown, strict=True)):
            width = _GRID // row.columns
            letters = int(9 * figure.get_figwidth() / row.columns)
            for place, panel in enumerate(row.panels):
                axes = figure.add_subplot(grid[level, place * width : (place + 1) * width])
                axes.set_title("\n".join(textwrap.wrap(panel.title, letters)))
                if panel.kind == "dots":
                    _draw_dots(axes, panel, rules, named=place == 0 or not dots)
                else:
                    _draw_lines(axes, panel, rules)
        _add_title(figure, plot.title, [] if dots else plot.rules)
        figure.supxlabel("\n".join(caption), x=0.005, ha="left", fontsize=7, color="#555555")
    return figure


class _Row(NamedTuple):
    """Panels next to each other, and how many fit."""

    panels: Sequence[Panel]
    columns: int


def _rows(panels: Sequence[Panel], apart: bool) -> Iterator[_Row]:
    """Deal panels out to rows; if wanted, those of few and those of many rules apart."""
    groups: list[list[Panel]] = []
    for panel in panels:
        counts = len(panel.rules), len(groups[-1][0].rules) if groups else 0
        if groups and (not apart or 2 * min(counts) > max(counts)):
            groups[-1].append(panel)
        else:
            groups.append([panel])
    for group in groups:
        columns = 2 if len(group) == 4 else min(_COLUMNS, len(group))
        for first in range(0, len(group), columns):
            yield _Row(group[first : first + columns], columns)


def _draw_dots(axes: Axes, panel: Panel, rules: Sequence[str], named: bool) -> None:
    for row, rule in enumerate(rules):
        color = rule_color(rule)
        own = [(s.y[0], s.diverged) for s in _drawable(panel) if s.rule == rule]
        for marker, diverged in (("o", False), ("x", True)):
            values = [value for value, lost in own if lost == diverged]
            axes.plot(values, [row] * len(values), marker, color=color, markersize=4, alpha=0.55, zorder=2)
        found = panel.statistics.get(rule)
        if found is None:
            continue
        if math.isfinite(found.low) and math.isfinite(found.high):
            axes.plot([found.low, found.high], [row, row], color=color, linewidth=2, zorder=3)
        if math.isfinite(found.mean) and (found.mean > 0 or not panel.log):
            axes.plot(found.mean, row, "D", color=color, markersize=5.5, markeredgecolor="white", zorder=4)
    if panel.log:
        axes.set_xscale("log")
        plain_numbers(axes.xaxis, [y for series in _drawable(panel) for y in series.y])
    if panel.mark is not None:
        axes.axvline(panel.mark, color="#777777", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    axes.set_yticks(range(len(rules)), [label_of(rule) for rule in rules] if named else [])
    axes.set_ylim(len(rules) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08)
    axes.set_xlabel(panel.values)


def _draw_lines(axes: Axes, panel: Panel, rules: Sequence[str]) -> None:
    for rule in rules:
        color, own = rule_color(rule), [s for s in _drawable(panel) if s.rule == rule]
        if len(own) > 1:
            for series in own:
                axes.plot(series.x, series.y, color=color, linewidth=0.7, alpha=0.4)
        means = [(x, y) for x, y in panel.means.get(rule, ()) if y > 0 or not panel.log]
        if means:
            # The reference lies on top, thin, so that a rule that does as well shows on both sides of it.
            width, size, order = (1.1, 2.6, 4) if rule == "bp" else (2.0, 4.0, 3)
            axes.plot(
                *zip(*means, strict=True), color=color, linewidth=width, marker="o", markersize=size,
                zorder=order,
            )  # fmt: skip
    if panel.log:
        axes.set_yscale("log")
        plain_numbers(axes.yaxis, [y for series in _drawable(panel) for y in series.y])
    places = sorted({x for series in _drawable(panel) for x in series.x})
    if len(places) <= _MOST_TICKS and all(x.is_integer() for x in places) and not panel.log_along:
        axes.set_xticks(places)
    if panel.log_along:
        axes.set_xscale("log")
        plain_numbers(axes.xaxis, places)
    if panel.mark is not None:
        axes.axhline(panel.mark, color="#777777", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    axes.set_xlabel(panel.along)
    axes.set_ylabel(panel.values)


def _drawable(panel: Panel) -> Iterator[Series]:
    """Leave out what is not finite, or has no place on a logarithmic axis."""
    for series in panel.series:
        kept = [
            (place, y) for place, y in enumerate(series.y) if math.isfinite(y) and (y > 0 or not panel.log)
        ]
        if kept:
            places, y = zip(*kept, strict=True)
            x = tuple(series.x[place] for place in places) if series.x else ()
            yield Series(series.rule, series.seed, y, x, series.diverged)


def _add_title(figure: Figure, title: str, rules: Sequence[str]) -> None:
    """Write the title above all panels, as that of a legend, so that neither covers the other."""
    handles = [Line2D([], [], color=rule_color(rule), linewidth=2, label=label_of(rule)) for rule in rules]
    letters = int(10 * figure.get_figwidth())
    figure.legend(
        handles=handles, loc="outside upper left", ncols=5, frameon=False, fontsize=8, handlelength=1.6,
        columnspacing=1.4, title=textwrap.fill(title, letters), alignment="left", borderpad=0.1,
        title_fontproperties={"size": 11, "weight": "bold"},
    )  # fmt: skip


def plain_numbers(axis: Axis, values: Iterable[float]) -> None:
    """Label a logarithmic axis with few and readable numbers.

    Args:
        axis: the axis.
        values: what is drawn along it.
    """
    known = [v for v in values if math.isfinite(v) and v > 0]
    decades = math.log10(max(known) / min(known)) if known else 1.0
    if decades < 0.7:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    else:
        axis.set_major_locator(LogLocator(10, (1, 2, 5) if decades < 2 else (1,), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: readable(value, digits=3)))
    axis.set_minor_formatter(NullFormatter())


def readable(value: float, digits: int = 2) -> str:
    """Write a number of any size.

    Args:
        value: the number.
        digits: of a number below 1; larger ones have three, powers of ten two.

    Returns:
        Such as `0.16`, `3,860` or, as mathematics, 1.1 times a power of ten.
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if 1e-3 <= abs(value) < 1e4:
        return f"{float(f'{value:.{digits if abs(value) < 1 else 3}g}'):,g}"
    power = math.floor(math.log10(abs(value)) + 1e-9)
    factor = f"{value / 10**power:.2g}"
    if factor in ("1", "-1"):
        return f"${factor[:-1]}10^{{{power}}}$"
    return f"${factor}\\cdot10^{{{power}}}$"
