"""Figures of what a network does with clean images: generalisation, imperfect weights."""

from __future__ import annotations

from matplotlib.figure import Figure

from alignonce.experiments.figures.comparison import rule_color
from alignonce.experiments.figures.special_style import (
    add_caption,
    add_legend,
    as_percent,
    draw_dots,
    draw_lines,
    images_text,
    new_figure,
    readable,
    series,
)
from alignonce.experiments.measures.table import AnalysisTable, Row, setting_of


def generalisation_figure(table: AnalysisTable, about: str) -> Figure:
    """Draw accuracy on training and test images, the gap of the loss, calibration and detection.

    Args:
        table: rows of the group `generalisation`.
        about: what the networks are.

    Returns:
        The figure.
    """
    rules = table.distinct("rule")
    figure = new_figure(1.6 + 0.55 * len(rules))
    accuracy, gap, calibration, detection = figure.subplots(2, 2, sharey=True).flat
    accuracy.set_title("Accuracy: test and training")
    on_test, on_train = (as_percent(table.pick(measure=f"{part}_accuracy")) for part in ("test", "train"))
    for place, rule in enumerate(rules):
        ends = [series(rows.pick(rule=rule), lambda row: 0.0)[1] for rows in (on_test, on_train)]
        if all(ends):
            accuracy.plot([e[0] for e in ends], [place] * 2, color=rule_color(rule), linewidth=1.5)
    draw_dots(accuracy, on_train, rules, None, hollow=True)
    draw_dots(accuracy, on_test, rules, "{:.1f}".format)
    accuracy.set_xlabel("accuracy (%)   (full: test, ring: training)")
    gap.set_title("Gap of the loss")
    draw_dots(gap, table.pick(measure="loss_gap"), rules, readable, "log")
    gap.set_xlabel("test loss less training loss")
    calibration.set_title("Calibration error")
    draw_dots(calibration, as_percent(table.pick(measure="calibration_error")), rules, "{:.1f}".format)
    calibration.set_xlabel("expected calibration error (%)")
    unfamiliar = table.pick(measure="ood_auroc")
    detection.set_title("Telling unfamiliar images")
    draw_dots(detection, unfamiliar, rules, "{:.2f}".format)
    detection.axvline(0.5, color="#777777", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    detection.set_xlabel(f"AUROC against {' and '.join(unfamiliar.distinct('item'))}   (0.5: chance)")
    counts = [images_text(table.pick(measure=f"{part}_loss"), word) for part, word in
              (("train", "training"), ("test", "test"))]  # fmt: skip
    add_caption(figure, f"{about} On {' and '.join(counts)}; calibration in 15 bins.")
    return figure


def weights_figure(table: AnalysisTable, about: str) -> Figure:
    """Draw test accuracy with noisy, quantised and mismatched weights.

    Args:
        table: rows of the group `weights`.
        about: what the networks are.

    Returns:
        The figure.
    """
    figure = new_figure(5.0)
    grid = figure.subplots(2, 2, sharey=True)
    percent = as_percent(table)
    bits = sorted({_level(r) for r in percent.pick(item="quantisation")}, reverse=True)
    panels = {
        "noise": ("Weight noise", "deviation / that of the layer's weights"),
        "quantisation": ("Quantised weights", "bits"),
        "mismatch": ("Device mismatch", "deviation of ln(device factor)"),
        "stuck": ("Dead devices", "share of weights stuck at zero (%)"),
    }
    for axes, (kind, (title, label)) in zip(grid.flat, panels.items(), strict=True):
        axes.set_title(title)
        axes.set_xlabel(label)
        rows = AnalysisTable([*percent.pick(item="none"), *percent.pick(item=kind)])
        if kind == "quantisation":
            draw_lines(axes, rows, lambda row: ([0.0, *bits]).index(_level(row)))
            axes.set_xticks(range(1 + len(bits)), ["none", *(f"{b:g}" for b in bits)])
        elif kind == "stuck":
            draw_lines(axes, rows, lambda row: 100 * _level(row))
        else:
            draw_lines(axes, rows, _level)
    for axes in grid[:, 0]:
        axes.set_ylabel("test accuracy (%)")
    grid[0, 0].set_ylim(0, 100)
    add_legend(figure, table.distinct("rule"))
    draws = len({setting_of(r, "draw") for r in table.pick(item="noise")})
    add_caption(figure, f"{about} On {images_text(table, 'test')}; means over {draws} random draws.")
    return figure


def _level(row: Row) -> float:
    return float(setting_of(row, "level"))
