"""Figures of runs. How a learning rule is called and coloured is decided here, for every figure and page."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from alignonce.experiments.config.rule_specs import canonical_rule, split_rule
from alignonce.experiments.files import write_atomically
from alignonce.experiments.runs.folder import RunRecord
from alignonce.experiments.runs.records import error_carrying_layers
from alignonce.experiments.runs.scores import Score, score_of

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# Soft alignment is drawn on a scale from light to dark blue.
_SOFT_SCALE = ((0.0, "#A9CFEA"), (0.5, "#3A8AC4"), (1.0, "#0B2F66"))

_STYLE: dict[RcKeyType, object] = {
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": "#333333",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "xtick.color": "#666666",
    "ytick.color": "#666666",
    "xtick.labelcolor": "#333333",
    "ytick.labelcolor": "#333333",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    # Text in a PDF stays text.
    "pdf.fonttype": 42,
}


def rule_label(spec: str) -> str:
    """Name a learning rule for people.

    Args:
        spec: such as `soft:0.5`.

    Returns:
        Such as `soft alignment 0.5`.
    """
    kind, _ = split_rule(spec)
    # As many values as the spec gives: the rest goes without saying.
    return " ".join([kind.title, *(f"{float(value):g}" for value in canonical_rule(spec).split(":")[1:])])


def rule_color(spec: str) -> str:
    """Give a learning rule its colour, the same everywhere; soft alignment is the darker, the better aligned.

    Args:
        spec: such as `soft:0.5`.

    Returns:
        `#RRGGBB`.
    """
    kind, values = split_rule(spec)
    if kind.name != "soft":
        return kind.color
    value = min(max(values[0], 0.0), 1.0)
    for (low, below), (high, above) in pairwise(_SOFT_SCALE):
        if value <= high:
            part = (value - low) / (high - low)
            mixed = [round(a + part * (b - a)) for a, b in zip(_rgb(below), _rgb(above), strict=True)]
            return "#{:02X}{:02X}{:02X}".format(*mixed)
    return _SOFT_SCALE[-1][1]


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
    score = score_of(runs[0].metrics)
    with style():
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        finals, curves, angles = figure.subplots(1, 3, width_ratios=(1.15, 1, 1))
        _draw_finals(finals, by_rule, score)
        _draw_curves(curves, by_rule, score)
        _draw_angles(angles, by_rule)
        figure.suptitle(_describe(runs), x=0.005, ha="left", fontsize=8.5, color="#555555")
    return figure


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Save a figure as PNG and as PDF.

    Args:
        figure: the figure.
        path: the file, whose suffix is replaced.

    Returns:
        The two files.
    """
    files = [path.with_suffix(".png"), path.with_suffix(".pdf")]
    with style():
        for file in files:
            write_atomically(file, lambda temporary: figure.savefig(temporary, dpi=200))
    return files


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
    return None if run.summary.status == "diverged" else getattr(run.summary, score.metric)


def _describe(runs: Sequence[RunRecord]) -> str:
    config, data = runs[0].config, runs[0].summary.data
    depth, width = config.size
    size = {"mlp": f"{depth} hidden layers of {width}", "resnet": f"{3 * depth} blocks"}.get(
        config.model, f"depth {depth}, width {width}"
    )
    seeds = sorted({run.config.seed for run in runs})
    return (
        f"{data.name} ({data.train_images:,} training examples), {config.model}, {size}, "
        f"{config.optimizer} at {config.learning_rate:g}, batches of {config.batch_size}, "
        + (f"seed {seeds[0]}" if len(seeds) == 1 else f"mean ± s.d. over {len(seeds)} seeds")
    )


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


@contextmanager
def style() -> Iterator[None]:
    """Draw, within the context, in the style of all figures, whatever a user's own matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield
