"""The figure of a comparison: scores, learning curves, angles between W and B."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from alignonce.experiments.facts import Fact, Facts
from alignonce.experiments.figures.captions import describe_network, describe_seeds
from alignonce.experiments.figures.panels import Panel, dots, lines
from alignonce.experiments.figures.style import rule_color, rule_label, style
from alignonce.experiments.runs.folder import RunRecord
from alignonce.experiments.runs.records import error_carrying_layers
from alignonce.experiments.runs.scores import Score, score_of
from alignonce.experiments.setting import NO_SETTING


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
    score = score_of(runs[0])
    rules, facts, name = list(dict.fromkeys(r.config.rule for r in runs)), _facts(runs, score), score.title
    of_score = facts.pick(measure=score.metric)
    at_end = dots(of_score.pick(setting=NO_SETTING), score.factor)
    final = Panel(f"{name.capitalize()} at the end", "dots", score.axis, at_end)
    curve = _lines(
        of_score.where(lambda fact: fact.setting != NO_SETTING),
        f"{name.capitalize()} over training",
        score.axis,
        score.factor,
    )
    with style():
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        finals, curves, angles = figure.subplots(1, 3, width_ratios=(1.15, 1, 1))
        _draw_finals(finals, final, rules, score)
        _draw_curves(curves, curve)
        _draw_angles(angles, facts.pick(measure="angle_deg"))
        figure.suptitle(_describe(runs), x=0.005, ha="left", fontsize=8.5, color="#555555")
    return figure


def _draw_finals(axes: Axes, panel: Panel, rules: Sequence[str], score: Score) -> None:
    axes.set_title(panel.title)
    for row, rule in enumerate(rules):
        found = panel.statistics.get(rule)
        if found is None or not found.seeds:
            axes.text(0.5, row, "diverged", transform=axes.get_yaxis_transform(), ha="center", va="center")
            continue
        color = rule_color(rule)
        if found.seeds > 1:
            values = [series.y[0] for series in panel.series if series.rule == rule]
            axes.plot(values, [row] * len(values), "|", color=color, markersize=8, alpha=0.6)
            axes.errorbar(found.mean, row, xerr=found.deviation, color=color, capsize=3, linewidth=1.5)
        axes.plot(found.mean, row, "o", color=color, markersize=7)
        axes.annotate(
            f"{found.mean:.{score.decimals}f}",
            (found.mean, row),
            (0, 7),
            textcoords="offset points",
            ha="center",
            color="#333333",
        )
    if values := [series.y[0] for series in panel.series]:
        lowest, highest = min(values), max(values)
        margin = max(score.factor / 100, 0.12 * (highest - lowest))
        most = 100 + margin / 2 if score.unit == "%" else math.inf
        axes.set_xlim(lowest - margin, min(most, highest + margin))
    axes.set_yticks(range(len(rules)), [rule_label(rule) for rule in rules])
    axes.set_ylim(len(rules) - 0.5, -0.7)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(panel.values)


def _draw_curves(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title)
    for rule, means in panel.means.items():
        axes.plot(*_points(means), color=rule_color(rule), linewidth=1.6)
    axes.set_xlabel(panel.along)
    axes.set_ylabel(panel.values)
    axes.set_xlim(left=0)


def _draw_angles(axes: Axes, angles: Facts) -> None:
    axes.set_title("Angle between W and B")
    for rule in angles.distinct("rule"):
        own = angles.pick(rule=rule)
        for layer in own.distinct("item"):
            means = _lines(own.pick(item=layer)).means[rule]
            axes.plot(*_points(means), color=rule_color(rule), linewidth=0.6, alpha=0.45)
        axes.plot(*_points(_lines(own).means[rule]), color=rule_color(rule), linewidth=2)
    axes.axhline(90, color="#999999", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0.5)
    axes.set_yticks(range(0, 181, 30))
    axes.set_ylim(-3, max(99.0, axes.dataLim.y1 + 5))
    axes.set_xlim(left=0)
    axes.set_xlabel("epoch   (thin: a layer, thick: mean)")
    axes.set_ylabel("angle (degrees)")


def _lines(facts: Facts, title: str = "", values: str = "", factor: float = 1.0) -> Panel:
    series = lines(facts, lambda fact: fact.setting.number("epoch"), factor)
    return Panel(title, "lines", values, series, along="epoch")


def _points(means: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in means], [y for _, y in means]


def _facts(runs: Sequence[RunRecord], score: Score) -> Facts:
    """Scores at the end, without a setting; scores and angles on the way, with their epoch."""
    facts: list[Fact] = []
    for run in runs:
        config, last = run.config, run.summary.value(score)
        found = run.metrics.facts(score.metric)
        for layer in error_carrying_layers(run.metrics):
            found += run.metrics.facts("angle_deg", layer)
        if last is not None and run.summary.status != "diverged":
            found.append(Fact(measure=score.metric, value=last))
        facts += (fact._replace(rule=config.rule, seed=config.seed) for fact in found)
    return Facts(facts)


def _describe(runs: Sequence[RunRecord]) -> str:
    config, data = runs[0].config, runs[0].summary.data
    return (
        f"{describe_network(runs[0])}, {data.train_examples:,} training examples, "
        f"{config.optimizer} at {config.learning_rate:g}, batches of {config.batch_size}, "
        + describe_seeds(runs, "mean ± s.d.")
    )
