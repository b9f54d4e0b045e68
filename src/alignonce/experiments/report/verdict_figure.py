"""The verdicts as an image."""

from __future__ import annotations

import textwrap
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from alignonce.experiments.claims import SIGNS, Finding, Verdict
from alignonce.experiments.figures.panels import NONE, shown
from alignonce.experiments.figures.style import label_of, style
from alignonce.experiments.report.content import ReportContent
from alignonce.experiments.report.verdicts import VerdictRow, judged_rules, statistic_words, verdict_rows

_COLORS: dict[Verdict, tuple[str, str]] = {
    "supported": ("#CDE9D4", "#17692F"),
    "not supported": ("#F6CFCB", "#8E1F17"),
    "inconclusive": ("#F7EBBE", "#5C4600"),
}
"""Of the box and of its text."""

# Inches: the columns of claims and of a rule, and the lines that a table is made of.
_CLAIM, _RULE = 3.7, 0.72
_HEAD, _SENTENCE, _ROW, _FOOT = 0.6, 0.17, 0.38, 0.3
_LETTERS_AN_INCH = 14


def verdict_figure(content: ReportContent) -> Figure:
    """Draw the matrix of verdicts: claims by learning rules, each with its sign, colour and estimate.

    Args:
        content: of a report with one finding or more.

    Returns:
        The figure.
    """
    rules, rows = judged_rules(content), verdict_rows(content)
    width = _CLAIM + _RULE * len(rules)
    groups = [
        (textwrap.wrap(sentence, int(_LETTERS_AN_INCH * width)), list(group))
        for sentence, group in groupby(rows, lambda row: row.claim.sentence)
    ]
    height = _HEAD + sum(_height(sentence, group) for sentence, group in groups) + _FOOT
    with style():
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.axis("off")
        for column, rule in enumerate(rules):
            label = "\n".join(textwrap.wrap(label_of(rule), 11))
            middle = _CLAIM + _RULE * (column + 0.5)
            axes.text(middle, _HEAD - 0.08, label, ha="center", va="bottom", fontweight="bold", fontsize=7)
        top = _HEAD
        for sentence, group in groups:
            axes.axhline(top, color="#CCCCCC", linewidth=0.8)
            text = "\n".join(sentence)
            axes.text(0.1, top + 0.08, text, va="top", fontsize=8, fontweight="bold", linespacing=1.3)
            for place, row in enumerate(group):
                _draw_row(axes, row, top + 0.12 + _SENTENCE * len(sentence) + _ROW * place)
            top += _height(sentence, group)
        _draw_key(axes, top + 0.16)
    return figure


def _draw_key(axes: Axes, top: float) -> None:
    left = 0.1
    for verdict, icon in SIGNS.items():
        back, front = _COLORS[verdict]
        box = {"facecolor": back, "edgecolor": "none", "boxstyle": "round,pad=0.3"}
        axes.text(left + 0.04, top, f"{icon} {verdict}", color=front, fontsize=7.5, va="center", bbox=box)
        left += 1.2
    axes.text(left, top, "with the estimate, by its 95% interval", fontsize=7.5, va="center", color="#555555")


def _height(sentence: list[str], rows: list[VerdictRow]) -> float:
    return 0.2 + _SENTENCE * len(sentence) + _ROW * len(rows)


def _draw_row(axes: Axes, row: VerdictRow, top: float) -> None:
    statistic = textwrap.shorten(statistic_words(row.claim), int(17 * _CLAIM), placeholder=" …")
    axes.text(0.1, top + 0.13, statistic, va="center", fontsize=7.5)
    axes.text(0.1, top + 0.27, row.where, va="center", fontsize=6.5, color="#666666")
    for column, finding in enumerate(row.findings):
        left = _CLAIM + _RULE * column
        if finding is None:
            axes.text(left + _RULE / 2, top + _ROW / 2, NONE, ha="center", va="center", color="#888888")
        else:
            _draw_verdict(axes, finding, left, top)


def _draw_verdict(axes: Axes, finding: Finding, left: float, top: float) -> None:
    back, front = _COLORS[finding.verdict]
    shape = "round,pad=0,rounding_size=0.06"
    axes.add_patch(
        FancyBboxPatch(
            (left + 0.04, top + 0.04), _RULE - 0.08, _ROW - 0.08, facecolor=back, linewidth=0, boxstyle=shape
        )
    )  # fmt: skip
    middle, lines = (
        left + _RULE / 2,
        ((0.13, SIGNS[finding.verdict], 8.5), (0.27, shown(finding.estimate), 7)),
    )
    for down, text, size in lines:
        axes.text(middle, top + down, text, ha="center", va="center", color=front, fontsize=size)
