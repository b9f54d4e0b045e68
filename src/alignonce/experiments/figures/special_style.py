"""What the figures of an analysis share: size, colours, means over seeds, legends and captions."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from alignonce.experiments.figures.painting import plain_numbers, readable
from alignonce.experiments.figures.panels import Panel
from alignonce.experiments.figures.style import rule_color, rule_label

# A page of a paper between its margins: at this width, letters print as large as they are said to be.
WIDTH = 7.2
LineStyle = Literal["-", "--", ":"]
_CAPTION_LETTERS = 144


def new_figure(height: float) -> Figure:
    """Make an empty figure as wide as a page.

    Args:
        height: in inches.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def add_caption(figure: Figure, text: str) -> None:
    """Write below a figure what it was measured on.

    Args:
        figure: the figure.
        text: the caption, which is wrapped.
    """
    wrapped = "\n".join(textwrap.wrap(text, _CAPTION_LETTERS))
    figure.supxlabel(wrapped, x=0.01, ha="left", fontsize=7, color="#555555")


def add_legend(figure: Figure, rules: Sequence[str], extra: Sequence[Line2D] = ()) -> None:
    """Name the rules above all panels.

    Args:
        figure: the figure.
        rules: those drawn, in order.
        extra: handles of other things.
    """
    handles = [Line2D([], [], color=rule_color(r), linewidth=2, label=rule_label(r)) for r in rules]
    figure.legend(
        handles=[*handles, *extra], loc="outside upper left", ncols=4, frameon=False, fontsize=8,
        handlelength=1.6, columnspacing=1.4,
    )  # fmt: skip


def line_key(label: str, line: LineStyle) -> Line2D:
    """Make a legend's handle for a style of lines, whatever their colour.

    Args:
        label: what the style means.
        line: the style.

    Returns:
        The handle.
    """
    return Line2D([], [], color="#555555", label=label, linestyle=line)


def draw_lines(axes: Axes, panel: Panel, line: LineStyle = "-", mark: str = "o") -> None:
    """Draw one line for each rule, the mean over its seeds.

    Args:
        axes: where.
        panel: of lines.
        line: the line's style.
        mark: the marks' shape, "" for none.
    """
    for rule, means in panel.means.items():
        # The reference is thinner and on top: a rule that does exactly as well shows on both sides of it.
        width, size, order = (1.0, 2.4, 3) if rule == "bp" else (1.7, 3.6, 2)
        axes.plot(
            [x for x, _ in means], [y for _, y in means], linestyle=line, marker=mark, color=rule_color(rule),
            linewidth=width, markersize=size, zorder=order,
        )  # fmt: skip


def draw_dots(
    axes: Axes,
    panel: Panel,
    rules: Sequence[str],
    form: Callable[[float], str] | None,
    scale: str = "linear",
    hollow: bool = False,
) -> None:
    """Draw one line of dots for each rule: the mean with its number, and the seeds if there are several.

    Args:
        axes: where; the rules go from top to bottom.
        panel: of dots.
        rules: all rules of the figure, so that panels line up.
        form: writes the mean; None for not at all.
        scale: `log` falls back to a scale that includes zero and below where that is needed.
        hollow: draw rings, write below them, and leave out the seeds: what is full has the same.
    """
    values = values_of(panel)
    if scale == "log" and values and min(values) > 0:
        axes.set_xscale("log")
        plain_numbers(axes.xaxis, values)
    elif scale == "log" and any(values):
        # Two decades on both sides of what is linear: more labels would not fit.
        largest = math.floor(math.log10(max(map(abs, values))))
        axes.set_xscale("symlog", linthresh=10.0 ** (largest - 1))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: readable(value)))
    for place, rule in enumerate(rules):
        found = panel.statistics.get(rule)
        if found is None or not found.seeds:
            continue
        mean, color = found.mean, rule_color(rule)
        if found.seeds > 1 and not hollow:
            own = values_of(panel, rule)
            axes.plot(own, [place] * len(own), "|", color=color, markersize=8, alpha=0.7)
        axes.plot(mean, place, "o", color=color, markersize=6, markerfacecolor="white" if hollow else color)
        if form is not None:
            axes.annotate(
                form(mean), (mean, place), (0, -6 if hollow else 5), textcoords="offset points", ha="center",
                va="top" if hollow else "bottom", fontsize=7.5, color="#333333",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.3},
            )  # fmt: skip
    list_rules(axes, rules)
    axes.margins(x=0.14)


def values_of(panel: Panel, rule: str | None = None) -> list[float]:
    """List what a panel shows.

    Args:
        panel: the panel.
        rule: one of its rules; None takes all.

    Returns:
        The finite values of all runs.
    """
    chosen = (series for series in panel.series if rule in (None, series.rule))
    return [y for series in chosen for y in series.y if math.isfinite(y)]


def list_rules(axes: Axes, rules: Sequence[str]) -> None:
    """Write the rules beside the vertical axis, from top to bottom.

    Args:
        axes: where.
        rules: the rules.
    """
    axes.set_yticks(range(len(rules)), [rule_label(rule) for rule in rules])
    axes.set_ylim(len(rules) - 0.5, -0.75)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
