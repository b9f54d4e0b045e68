"""Figures of the loss around the solutions: curvature, spectra, planes, lines between solutions."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignonce.experiments.facts import Facts
from alignonce.experiments.figures.captions import images_text
from alignonce.experiments.figures.measure_panels import curvature_panels, line_panels
from alignonce.experiments.figures.painting import plain_numbers, readable
from alignonce.experiments.figures.special_style import (
    add_caption,
    add_legend,
    draw_dots,
    draw_lines,
    new_figure,
)
from alignonce.experiments.figures.style import rule_color, rule_label

_COLUMNS = 3


def curvature_figure(table: Facts, about: str) -> Figure:
    """Draw the largest eigenvalues, the trace and both kinds of sharpness, rule by rule.

    Args:
        table: rows of the group `curvature`.
        about: what the networks are.

    Returns:
        The figure.
    """
    rules = table.distinct("rule")
    figure = new_figure(1.6 + 0.55 * len(rules))
    eigenvalues, trace, plain, adaptive = figure.subplots(2, 2, sharey=True).flat
    found = table.pick(measure="eigenvalue")
    panels = curvature_panels(table)
    eigenvalues.set_title("Largest Hessian eigenvalues")
    for place, rule in enumerate(rules):
        own = [r.value for r in found.pick(rule=rule) if r.setting.text("rank") != "1" and r.value > 0]
        eigenvalues.plot(own, [place] * len(own), "o", color=rule_color(rule), markersize=3, alpha=0.55)
    draw_dots(eigenvalues, panels["eigenvalue"], rules, readable, "log")
    eigenvalues.set_xlabel("eigenvalue   (large: the largest)")
    for axes, name in ((trace, "trace"), (plain, "sharpness"), (adaptive, "adaptive_sharpness")):
        axes.set_title(panels[name].title)
        axes.set_xlabel(panels[name].values)
        draw_dots(axes, panels[name], rules, readable, "log")
    products = next((r.setting.text("products") for r in found), "")
    add_caption(
        figure,
        f"{about} Through exact gradients, on {images_text(table, 'training')}; {products} Hessian products.",
    )
    return figure


def spectrum_figure(table: Facts, about: str) -> Figure:
    """Draw the spectral density of each rule's Hessian, in units of its largest eigenvalue.

    Args:
        table: rows of the group `curvature`.
        about: what the networks are.

    Returns:
        The figure.
    """
    figure, panels, caption = _panels(table, 1.55)
    lowest: list[float] = []
    for axes, rule in panels:
        rows = table.pick(rule=rule, run=_first_run(table, rule))
        at = np.array([r.setting.number("eigenvalue") for r in rows.pick(measure="density")])
        density = np.array(rows.pick(measure="density").values)
        largest = max(rows.pick(measure="eigenvalue").values, default=math.nan)
        axes.fill_between(
            at / largest, 1e-9, density * largest, color=rule_color(rule), alpha=0.25, linewidth=0
        )
        axes.plot(at / largest, density * largest, color=rule_color(rule), linewidth=1.2)
        axes.set_yscale("log")
        axes.set_ylim(1e-7, 1e2)
        axes.set_yticks([1e-6, 1e-4, 1e-2, 1])
        lowest.append(float(at[0] / largest))
        axes.set_title(rule_label(rule))
        axes.text(
            0.97,
            0.93,
            f"largest {readable(largest)}",
            transform=axes.transAxes,
            ha="right",
            va="top",
            fontsize=7.5,
        )
    # Left of the grid there is only the rest of the Gaussian around zero.
    panels[0][0].set_xlim(max(lowest), 1.12)
    _label_outer(panels, "eigenvalue / largest", "density")
    add_caption(
        figure,
        f"{about}{caption} Stochastic Lanczos quadrature on {images_text(table, 'training')}, smoothed by a "
        "Gaussian in proportion to the range.",
    )
    return figure


def landscape_figure(table: Facts, about: str) -> Figure:
    """Draw the loss on a random filter-normalised plane through each rule's solution.

    Args:
        table: rows of the group `landscape`.
        about: what the networks are.

    Returns:
        The figure.
    """
    figure, panels, caption = _panels(table, 2.15)
    planes = {rule: _plane(table, rule) for _, rule in panels}
    logs = np.concatenate([np.log10(z[np.isfinite(z) & (z > 0)]) for _, _, z in planes.values()])
    low, high = math.floor(2 * logs.min()) / 2, math.ceil(2 * logs.max()) / 2
    levels = np.linspace(low, high, 1 + round(4 * (high - low)))
    drawn = None
    for axes, rule in panels:
        x, y, z = planes[rule]
        shown = np.log10(np.clip(np.where(np.isfinite(z), z, np.inf), 10**low, 10**high))
        drawn = axes.contourf(x, y, shown, levels, cmap="cividis")
        axes.contour(x, y, shown, levels[::2], colors="white", linewidths=0.5, linestyles="solid", alpha=0.7)
        axes.plot(0, 0, "+", color="white", markersize=8, markeredgewidth=1.6)
        axes.set_aspect("equal")
        axes.grid(visible=False)
        axes.set_title(rule_label(rule))
        for spine in axes.spines.values():
            spine.set(visible=True, color=rule_color(rule), linewidth=2.5)
        axes.set_xticks([-1, 0, 1])
        axes.set_yticks([-1, 0, 1])
    _label_outer(panels, "first direction", "second direction")
    if drawn is not None:
        bar = figure.colorbar(drawn, ax=[axes for axes, _ in panels], shrink=0.8, pad=0.02)
        bar.set_label("training loss")
        ticks = range(math.ceil(low), math.floor(high) + 1)
        bar.set_ticks(list(ticks), labels=[readable(10.0**t) for t in ticks])
    add_caption(
        figure,
        f"{about}{caption} Loss on {images_text(table, 'training')}; the same random directions for all, in "
        "which each unit's weights have the norm of the solution's (+): 1 is as long as the weights are.",
    )
    return figure


def lines_figure(table: Facts, about: str) -> Figure | None:
    """Draw loss and accuracy on the straight line between two rules' solutions.

    Args:
        table: rows of the group `landscape`.
        about: what the networks are.

    Returns:
        The figure, or None if no line was measured.
    """
    panels, losses = line_panels(table), table.pick(measure="line_loss")
    if not len(losses):
        return None
    figure = new_figure(3.1)
    left, right = figure.subplots(1, 2)
    start = " and ".join(rule_label(rule) for rule in losses.distinct("item"))
    for axes, panel in zip((left, right), panels.values(), strict=True):
        draw_lines(axes, panel)
        axes.set_xlabel(f"0: {start} … 1: the rule of the colour")
        axes.set_ylabel(panel.values)
        axes.set_title(panel.title)
    left.set_yscale("log")
    plain_numbers(left.yaxis, losses.values)
    right.set_ylim(0, 102)
    add_legend(figure, losses.distinct("rule"))
    add_caption(
        figure, f"{about} On {images_text(losses, 'training')}; both solutions from the same initial weights."
    )
    return figure


def _plane(table: Facts, rule: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = table.pick(rule=rule, run=_first_run(table, rule), measure="plane_loss")
    at = {(r.setting.number("x"), r.setting.number("y")): r.value for r in rows}
    x, y = (np.unique([point[i] for point in at]) for i in (0, 1))
    return x, y, np.array([[at[a, b] for a in x] for b in y])


def _first_run(table: Facts, rule: str) -> str:
    return table.pick(rule=rule).distinct("run")[0]


def _panels(table: Facts, height: float) -> tuple[Figure, list[tuple[Axes, str]], str]:
    """One panel for each rule, and a word on whose seed is drawn if there are several."""
    rules = table.distinct("rule")
    lines = math.ceil(len(rules) / _COLUMNS)
    figure = new_figure(0.6 + height * lines)
    grid = figure.subplots(lines, _COLUMNS, sharex=True, sharey=True, squeeze=False).flatten()
    for axes in grid[len(rules) :]:
        axes.set_visible(False)
    several = len({row.seed for row in table}) > 1
    return figure, list(zip(grid, rules, strict=False)), " Here each rule's first seed." if several else ""


def _label_outer(panels: list[tuple[Axes, str]], x: str, y: str) -> None:
    for place, (axes, _) in enumerate(panels):
        if place % _COLUMNS == 0:
            axes.set_ylabel(y)
        if place + _COLUMNS >= len(panels):
            axes.set_xlabel(x)
            axes.tick_params(labelbottom=True)
