"""The verdicts as an image."""

from __future__ import annotations

import textwrap

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from alignonce.experiments.figures import rule_label, style
from alignonce.report.content import ReportContent
from alignonce.report.number_tables import NONE, shown
from alignonce.report.verdicts import judged_rules, verdict_rows

_COLORS = {
    "supported": ("#CDE9D4", "#17692F"),
    "not supported": ("#F6CFCB", "#8E1F17"),
    "inconclusive": ("#F7EBBE", "#5C4600"),
}
_ICONS = {"supported": "✓", "not supported": "✗", "inconclusive": "?"}
_LETTERS = 62
_CLAIM, _CELL, _ROW = 3.9, 1.15, 0.46
"""Inches: the width of the claims' column, that of a rule's, the height of a row."""


def verdict_figure(content: ReportContent) -> Figure:
    """Draw the matrix of verdicts: claims by learning rules, each with its word, sign, colour and estimate.

    Args:
        content: of a report with one finding or more.

    Returns:
        The figure.
    """
    rules, rows = judged_rules(content), verdict_rows(content)
    places = len({row.where for row in rows}) > 1
    width, height = _CLAIM + _CELL * len(rules), 0.75 + _ROW * len(rows)
    with style():
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.axis("off")
        for column, rule in enumerate(rules):
            label = "\n".join(textwrap.wrap(rule_label(rule), 15))
            axes.text(
                _CLAIM + _CELL * (column + 0.5), 0.6, label, ha="center", va="bottom", fontweight="bold",
                fontsize=8,
            )  # fmt: skip
        for place, row in enumerate(rows):
            top = 0.7 + _ROW * place
            claim = textwrap.wrap(row.claim.sentence, _LETTERS)
            text = claim[0] + (" …" if len(claim) > 1 else "")
            axes.text(0.1, top + _ROW * (0.36 if places else 0.5), text, va="center", fontsize=8)
            if places:
                axes.text(0.1, top + _ROW * 0.74, row.where, va="center", fontsize=6.5, color="#666666")
            for column, finding in enumerate(row.findings):
                left = _CLAIM + _CELL * column
                middle = left + _CELL / 2
                if finding is None:
                    axes.text(middle, top + _ROW / 2, NONE, ha="center", va="center", color="#888888")
                    continue
                back, front = _COLORS[finding.verdict]
                axes.add_patch(
                    FancyBboxPatch(
                        (left + 0.06, top + 0.06), _CELL - 0.12, _ROW - 0.1, facecolor=back, linewidth=0,
                        boxstyle="round,pad=0,rounding_size=0.06",
                    )
                )  # fmt: skip
                axes.text(
                    middle, top + _ROW * 0.4, f"{_ICONS[finding.verdict]} {finding.verdict}", ha="center",
                    va="center", color=front, fontsize=7.5, fontweight="bold",
                )  # fmt: skip
                axes.text(
                    middle, top + _ROW * 0.72, shown(finding.estimate), ha="center", va="center", color=front,
                    fontsize=6.5,
                )  # fmt: skip
    return figure
