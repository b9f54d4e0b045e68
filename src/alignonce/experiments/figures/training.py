"""Figures of what happens during training: measures over the steps, and paths on a plane of weights."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from alignonce.experiments.facts import Facts
from alignonce.experiments.figures.captions import images_text
from alignonce.experiments.figures.measure_panels import checkpoint_panels
from alignonce.experiments.figures.painting import plain_numbers, readable
from alignonce.experiments.figures.special_style import (
    add_caption,
    add_legend,
    draw_lines,
    new_figure,
    values_of,
)
from alignonce.experiments.figures.style import rule_color
from alignonce.experiments.setting import Setting


def training_figure(table: Facts, about: str) -> Figure | None:
    """Draw measures over training, one line for each rule.

    Args:
        table: rows of checkpoints.
        about: what the networks are.

    Returns:
        The figure, or None if no measure was taken.
    """
    leading = table.pick(measure="eigenvalue").having(Setting.of(rank=1))
    panels = checkpoint_panels(table)
    if not any(panel.has_numbers for panel in panels):
        return None
    figure = new_figure(4.8)
    grid = figure.subplots(2, 3, sharex=True)
    for axes, panel in zip(grid.T.flat, panels, strict=True):
        axes.set_title(panel.title, fontsize=9)
        draw_lines(axes, panel)
        if panel.log:
            axes.set_yscale("log")
            plain_numbers(axes.yaxis, values_of(panel))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    for axes in grid[1]:
        axes.set_xlabel("step")
    add_legend(figure, table.distinct("rule"))
    measured = table.where(lambda fact: fact.group != "trajectory")
    products = next((r.setting.text("products") for r in leading), "")
    add_caption(
        figure,
        f"{about.replace('final networks', 'at checkpoints')} On {images_text(measured, 'training')}; "
        + (f"{products} Hessian products. " if products else "")
        + "Angles: rule and exact, mean over all layers but the last; cosines: of what W and B make of "
        "the errors, mean over all but the first; variances: over depth.",
    )
    return figure


def trajectory_figure(table: Facts, about: str) -> Figure:
    """Draw the path of each rule on the plane of the trajectories' two principal components.

    Args:
        table: rows of the group `trajectory`.
        about: what the networks are.

    Returns:
        The figure.
    """
    figure = new_figure(4.6)
    axes = figure.subplots()
    plane = table.pick(measure="plane_loss")
    at = {(r.setting.number("x"), r.setting.number("y")): r.value for r in plane}
    x, y = (np.unique([point[i] for point in at]) for i in (0, 1))
    z = np.array([[at[a, b] for a in x] for b in y])
    logs = np.log10(np.where(np.isfinite(z) & (z > 0), z, np.nan))
    low, high = float(np.nanmin(logs)), float(np.nanmax(logs))
    shown = np.where(np.isfinite(logs), logs, high)
    levels = np.linspace(low, max(high, low + 1e-6), 13)
    drawn = axes.contourf(x, y, shown, levels, cmap="Greys", alpha=0.55)
    axes.contour(x, y, shown, levels, colors="#888888", linewidths=0.5, linestyles="solid")
    outline = [withStroke(linewidth=3.6, foreground="white")]
    for rule in table.distinct("rule"):
        own = table.pick(rule=rule)
        xs, ys = own.pick(measure="path_x").values, own.pick(measure="path_y").values
        if not xs:
            continue
        color = rule_color(rule)
        axes.plot(xs, ys, "-", color=color, linewidth=1.8, path_effects=outline)
        axes.plot(xs[1:-1], ys[1:-1], "o", color=color, markersize=4, markeredgecolor="white")
        axes.plot(xs[-1], ys[-1], "*", color=color, markersize=12, markeredgecolor="white")
        axes.plot(xs[0], ys[0], "o", color="white", markersize=6, markeredgecolor="#333333", zorder=4)
    axes.grid(visible=False)
    shares = [100 * v for v in table.pick(measure="explained").values] or [math.nan, math.nan]
    axes.set_xlabel(f"first principal component ({shares[0]:.0f}% of the variance)")
    axes.set_ylabel(f"second ({shares[1]:.0f}%)")
    bar = figure.colorbar(drawn, ax=axes, pad=0.02)
    bar.set_label("training loss")
    bar.set_ticks(levels[::2].tolist(), labels=[readable(10.0**level) for level in levels[::2]])
    add_legend(figure, table.distinct("rule"))
    points = {row.step for row in table if row.step is not None}
    add_caption(
        figure,
        f"{about.split(', final')[0]}, {len(points)} checkpoints, seed {next(iter(table)).seed}. "
        f"Ring: start; star: end. Paths are projected; the loss is that on the plane itself, on "
        f"{images_text(plane, 'training')} at {len(x)} x {len(y)} points.",
    )
    return figure
