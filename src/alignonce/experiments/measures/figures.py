"""All figures of an analysis: which there are, of which group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from alignonce.experiments.figures.comparison import save_figure, style
from alignonce.experiments.figures.draw_performance import generalisation_figure, weights_figure
from alignonce.experiments.figures.draw_robustness import adversarial_figure, corruptions_figure
from alignonce.experiments.figures.draw_training import training_figure, trajectory_figure
from alignonce.experiments.figures.layers import alignment_figure, flow_figure, rank_figure
from alignonce.experiments.figures.planes_and_spectra import (
    curvature_figure,
    landscape_figure,
    lines_figure,
    spectrum_figure,
)
from alignonce.experiments.measures.plan import AnalysisPlan, GroupName
from alignonce.experiments.measures.table import AnalysisTable
from alignonce.experiments.runs.folder import RunRecord

FIGURES: dict[str, tuple[GroupName, Callable[[AnalysisTable, str], Figure | None]]] = {
    "alignment": ("alignment", alignment_figure),
    "ranks": ("alignment", rank_figure),
    "flow": ("flow", flow_figure),
    "curvature": ("curvature", curvature_figure),
    "spectrum": ("curvature", spectrum_figure),
    "landscape": ("landscape", landscape_figure),
    "lines": ("landscape", lines_figure),
    "generalisation": ("generalisation", generalisation_figure),
    "corruptions": ("corruptions", corruptions_figure),
    "weights": ("weights", weights_figure),
    "adversarial": ("adversarial", adversarial_figure),
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
    work += [("training", checkpoints, training_figure)]
    work += [("trajectory", table.pick(group="trajectory"), trajectory_figure)]
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
    depth, width = config.size
    size = f"{depth} hidden layers of {width}" if config.model == "mlp" else f"{3 * depth} blocks"
    seeds = sorted({run.config.seed for run in runs})
    which = f"seed {seeds[0]}" if len(seeds) == 1 else f"means over {len(seeds)} seeds"
    return f"{data.name}, {config.model} of {size}, final networks, {which}."
