"""All figures of an analysis: which there are, of which group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from alignonce.experiments.analysis import (
    draw_curvature,
    draw_layers,
    draw_performance,
    draw_robustness,
    draw_training,
)
from alignonce.experiments.analysis.plan import AnalysisPlan, GroupName
from alignonce.experiments.analysis.table import AnalysisTable
from alignonce.experiments.figures import save_figure, style
from alignonce.experiments.runs import RunRecord

FIGURES: dict[str, tuple[GroupName, Callable[[AnalysisTable, str], Figure | None]]] = {
    "alignment": ("alignment", draw_layers.alignment_figure),
    "ranks": ("alignment", draw_layers.rank_figure),
    "flow": ("flow", draw_layers.flow_figure),
    "curvature": ("curvature", draw_curvature.curvature_figure),
    "spectrum": ("curvature", draw_curvature.spectrum_figure),
    "landscape": ("landscape", draw_curvature.landscape_figure),
    "lines": ("landscape", draw_curvature.lines_figure),
    "generalisation": ("generalisation", draw_performance.generalisation_figure),
    "corruptions": ("corruptions", draw_robustness.corruptions_figure),
    "weights": ("weights", draw_performance.weights_figure),
    "adversarial": ("adversarial", draw_robustness.adversarial_figure),
}


def save_all_figures(
    table: AnalysisTable, plan: AnalysisPlan, runs: Sequence[RunRecord], out: Path
) -> list[Path]:
    """Draw and save what there are numbers for.

    Args:
        table: the analysis.
        plan: its settings.
        runs: its runs.
        out: where the figures go.

    Returns:
        The files, PNG and PDF.
    """
    about, files = _describe(runs), []
    final, checkpoints = table.pick(step=None), AnalysisTable(r for r in table if r.step is not None)
    work = [(name, final.pick(group=g), draw) for name, (g, draw) in FIGURES.items() if g in plan.measures]
    work += [("training", checkpoints, draw_training.training_figure)]
    work += [("trajectory", table.pick(group="trajectory"), draw_training.trajectory_figure)]
    for name, rows, draw in work:
        if not len(rows):
            continue
        with style():
            figure = draw(rows, about)
        if figure is not None:
            files += save_figure(figure, out / f"{name}.png")
    return files


def _describe(runs: Sequence[RunRecord]) -> str:
    config, data = runs[0].config, runs[0].summary.data
    seeds = sorted({run.config.seed for run in runs})
    which = f"seed {seeds[0]}" if len(seeds) == 1 else f"means over {len(seeds)} seeds"
    return f"{data.name}, {config.model} of {config.size_words}, final networks, {which}."
