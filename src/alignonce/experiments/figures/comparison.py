"""The figure of a comparison: scores, learning curves, angles between W and B."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from alignonce.experiments.runs.folder import RunRecord
from alignonce.experiments.runs.records import error_carrying_layers
from alignonce.experiments.runs.scores import Score, score_of

if TYPE_CHECKING:
    pass
from alignonce.experiments.figures.style import rule_color, rule_label, style


def comparison_figure(runs: Sequence[RunRecord]) -> Figure:
    """Draw a comparison: the score (test accuracy, ...) by rule, learning curves, angles over training.

    With several seeds, marks and lines are means over the seeds; each seed's own score is a small mark.

    Args:
        runs: runs of one network on one data set; diverged and interrupted ones show as far as they went.

    Returns:
        The figure, about 10 by 3.6 inches.

    Raises:
        ValueError: there are no runs.
    """
    if not runs:
        raise ValueError("runs must not be empty: there is nothing to draw")
    by_rule: dict[str, list[RunRecord]] = defaultdict(list)
    for run in runs:
        by_rule[run.config.rule].append(run)
    score = score_of(runs[0])
    with style():
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        finals, curves, angles = figure.subplots(1, 3, width_ratios=(1.15, 1, 1))
        _draw_finals(finals, by_rule, score)
        _draw_curves(curves, by_rule, score)
        _draw_angles(angles, by_rule)
        figure.suptitle(_describe(runs), x=0.005, ha="left", fontsize=8.5, color="#555555")
    return figure


def _draw_finals(axes: Axes, by_rule: dict[str, list[RunRecord]], score: Score) -> None:
    axes.set_title(f"{score.title.capitalize()} at the end")
    rules = list(by_rule)
    lowest, highest = math.inf, -math.inf
    for row, rule in enumerate(rules):
        values = [score.factor * s for run in by_rule[rule] if (s := _final(run, score)) is not None]
        if not values:
            axes.text(0.5, row, "diverged", transform=axes.get_yaxis_transform(), ha="center", va="center")
            continue
        lowest, highest = min(lowest, *values), max(highest, *values)
        mean, color = fmean(values), rule_color(rule)
        if len(values) > 1:
            axes.plot(values, [row] * len(values), "|", color=color, markersize=8, alpha=0.6)
            axes.errorbar(mean, row, xerr=stdev(values), color=color, capsize=3, linewidth=1.5)
        axes.plot(mean, row, "o", color=color, markersize=7)
        axes.annotate(
            f"{mean:.{score.decimals}f}",
            (mean, row),
            (0, 7),
            textcoords="offset points",
            ha="center",
            color="#333333",
        )
    if highest >= lowest:
        margin = max(score.factor / 100, 0.12 * (highest - lowest))
        most = 100 + margin / 2 if score.unit == "%" else math.inf
        axes.set_xlim(lowest - margin, min(most, highest + margin))
    axes.set_yticks(range(len(rules)), [rule_label(rule) for rule in rules])
    axes.set_ylim(len(rules) - 0.5, -0.7)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(score.axis)


def _draw_curves(axes: Axes, by_rule: dict[str, list[RunRecord]], score: Score) -> None:
    axes.set_title(f"{score.title.capitalize()} over training")
    for rule, runs in by_rule.items():
        epochs, values = _mean_series(runs, score.metric, [""])
        axes.plot(epochs, [score.factor * v for v in values], color=rule_color(rule), linewidth=1.6)
    axes.set_xlabel("epoch")
    axes.set_ylabel(score.axis)
    axes.set_xlim(left=0)


def _draw_angles(axes: Axes, by_rule: dict[str, list[RunRecord]]) -> None:
    axes.set_title("Angle between W and B")
    for rule, runs in by_rule.items():
        layers = error_carrying_layers(runs[0].metrics)
        for layer in layers:
            axes.plot(
                *_mean_series(runs, "angle_deg", [layer]), color=rule_color(rule), linewidth=0.6, alpha=0.45
            )
        if layers:
            axes.plot(*_mean_series(runs, "angle_deg", layers), color=rule_color(rule), linewidth=2)
    axes.axhline(90, color="#999999", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0.5)
    axes.set_yticks(range(0, 181, 30))
    axes.set_ylim(-3, max(99.0, axes.dataLim.y1 + 5))
    axes.set_xlim(left=0)
    axes.set_xlabel("epoch   (thin: a layer, thick: mean)")
    axes.set_ylabel("angle (degrees)")


def _mean_series(
    runs: Sequence[RunRecord], metric: str, layers: Sequence[str]
) -> tuple[list[float], list[float]]:
    """Average over runs and layers, at each epoch that any of them reached."""
    at_epoch: dict[float, list[float]] = defaultdict(list)
    for run in runs:
        for layer in layers:
            for epoch, value in zip(*run.metrics.series(metric, layer), strict=True):
                at_epoch[epoch].append(value)
    epochs = sorted(at_epoch)
    return epochs, [fmean(at_epoch[epoch]) for epoch in epochs]


def _final(run: RunRecord, score: Score) -> float | None:
    return None if run.summary.status == "diverged" else run.summary.value(score)


def _describe(runs: Sequence[RunRecord]) -> str:
    config, data = runs[0].config, runs[0].summary.data
    seeds = sorted({run.config.seed for run in runs})
    return (
        f"{data.name} ({data.train_examples:,} training examples), {config.model}, {config.size_words}, "
        f"{config.optimizer} at {config.learning_rate:g}, batches of {config.batch_size}, "
        + (f"seed {seeds[0]}" if len(seeds) == 1 else f"mean ± s.d. over {len(seeds)} seeds")
    )
