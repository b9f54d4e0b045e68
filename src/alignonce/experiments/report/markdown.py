"""The report in Markdown: verdicts and figures, for README and docs."""

from __future__ import annotations

import re

from alignonce.experiments.claims import SIGNS
from alignonce.experiments.figures.number_tables import NONE, shown
from alignonce.experiments.figures.rules import label_of
from alignonce.experiments.report.content import ReportContent
from alignonce.experiments.report.method import METHOD
from alignonce.experiments.report.verdicts import (
    interval_words,
    judged_rules,
    statistic_words,
    summary_words,
    verdict_rows,
)
from alignonce.experiments.report.words import diverged_words, environment_words, part_words, run_words


def results_markdown(content: ReportContent, images: str = "figures") -> str:
    """Write verdicts, figures and what they were made with.

    Args:
        content: of the report.
        images: folder of the image files, as seen from where the text will lie.

    Returns:
        Markdown, in which everything that comes from the study is escaped.
    """
    folder = images.rstrip("/")
    lines = [
        f"# {escaped(content.study.title)}",
        "",
        f"{run_words(content)} {summary_words(content.findings)}",
    ]
    lines += ["", *verdict_table(content)]
    if content.findings:
        lines += ["", _image("Verdicts", f"{folder}/verdicts.png")]
    for plot in content.plots():
        if not plot.folded:
            lines += ["", f"## {escaped(plot.title)}", "", _image(plot.title, f"{folder}/{plot.name}.png")]
            lines += ["", escaped(plot.caption)]
    if varied := verdict_table(content, detail=True):
        lines += ["", "## Verdicts at each setting that the study varies", "", *varied]
    lines += ["", "## What was run", ""]
    lines += table_lines(
        ["Part", "Data", "Network", "Training", "Varied", "Rules", "Seeds", "Runs"],
        [
            [escaped(text) for text in part_words(part, content.study).values()]
            for part in content.study.parts
        ],
    )
    lines += ["", *(f"- {name}: {escaped(value)}" for name, value in environment_words(content))]
    lines += ["", "Made by:", "", *(f"    {command}" for command in content.commands)]
    lost = [f"- {escaped(name)}: failed: {escaped(reason)}" for name, reason in content.failures.items()]
    lost += [f"- {escaped(name)}: diverged" for name in diverged_words(content)]
    if lost:
        lines += ["", "## Failures", "", *lost]
    return "\n".join([*lines, "", "## Method", "", *"\n\n".join(METHOD).split("\n")]) + "\n"


def verdict_table(content: ReportContent, detail: bool = False) -> list[str]:
    """Write the verdicts alone.

    Args:
        content: of the report.
        detail: those at each value of a number that the study varies, instead of the others.

    Returns:
        The lines of a table; none if nothing was judged.
    """
    rules = judged_rules(content)
    rows = []
    for row in verdict_rows(content, detail):
        cells = [
            NONE
            if finding is None
            else f"{SIGNS[finding.verdict]} {finding.verdict}<br>"
            f"{shown(finding.estimate)}"
            + (f" ({interval_words(finding)})" if interval_words(finding) else "")
            for finding in row.findings
        ]
        rows.append(
            [
                f"{escaped(row.claim.sentence)} *({escaped(statistic_words(row.claim))})*",
                escaped(row.where),
                escaped(row.claim.unit),
                *cells,
            ]
        )
    return [] if not rows else table_lines(["Claim", "Where", "Unit", *map(label_of, rules)], rows)


def escaped(text: str) -> str:
    """Keep a text from being read as Markdown or HTML.

    Args:
        text: any.

    Returns:
        The text on one line, with what has a meaning escaped.
    """
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#!])", r"\\\1", line)


def _image(title: str, link: str) -> str:
    return f"![{escaped(title)}]({link})"


def table_lines(heads: list[str], rows: list[list[str]]) -> list[str]:
    """Write a table.

    Args:
        heads: of the columns.
        rows: cells in Markdown, as many in each row as there are heads.

    Returns:
        Its lines.
    """
    return [_row(heads), _row(["---"] * len(heads)), *map(_row, rows)]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
