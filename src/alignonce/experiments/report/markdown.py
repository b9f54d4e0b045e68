"""The report in Markdown, for README and docs; findings as a table, for a text and for the terminal."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from alignonce.experiments.claims import CLAIMS, SIGNS, Claim, Finding
from alignonce.experiments.config.rule_specs import ALL_COSINES
from alignonce.experiments.figures.panels import NONE, shown
from alignonce.experiments.figures.style import label_of
from alignonce.experiments.report.content import ReportContent
from alignonce.experiments.report.verdicts import (
    interval_words,
    judged_rules,
    statistic_words,
    summary_words,
    verdict_rows,
)
from alignonce.experiments.report.words import (
    METHOD,
    diverged_words,
    environment_words,
    part_words,
    run_words,
)


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


_STYLES = {"supported": "green", "not supported": "red", "inconclusive": "yellow"}
_Row = tuple[Claim, str, dict[str, Finding]]


def findings_table(findings: Sequence[Finding], claims: Sequence[Claim] = CLAIMS) -> Table:
    """Tabulate verdicts for the terminal, as signs: claims as rows, rules as columns.

    Args:
        findings: what to show.
        claims: those that the findings are about.

    Returns:
        The table, to be printed by rich.
    """
    rules, rows = _rules(findings), _rows(findings, claims)
    places = {where for _, where, _ in rows}
    table = Table(
        title=f"Part {places.pop()}" if len(places) == 1 else None, title_justify="left",
        box=SIMPLE_HEAD, padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column("claim", no_wrap=True)
    if several := len(places) > 1:
        table.add_column("where")
    for rule in rules:
        table.add_column(_title(rule), justify="center", overflow="fold")
    for claim, where, by_rule in rows:
        found = [by_rule.get(rule) for rule in rules]
        cells = [f and f"[{_STYLES[f.verdict]}]{SIGNS[f.verdict]}[/]" for f in found]
        table.add_row(claim.id, *([where] if several else []), *(cell or "" for cell in cells))
    return table


def findings_count(findings: Sequence[Finding]) -> str:
    """Count verdicts in words, for where a table of them would be too long; legend to the signs of one, too.

    Args:
        findings: what to count.

    Returns:
        Such as "3 ✓ supported, 1 ? inconclusive".
    """
    counts = Counter(finding.verdict for finding in findings)
    return ", ".join(f"{counts[verdict]} {sign} {verdict}" for verdict, sign in SIGNS.items())


def findings_markdown(findings: Sequence[Finding], claims: Sequence[Claim] = CLAIMS) -> str:
    """Tabulate verdicts for a text: claims as rows, rules as columns.

    Args:
        findings: what to show.
        claims: those that the findings are about.

    Returns:
        A table in Markdown, and its legend; "" if there are no findings.
    """
    if not findings:
        return ""
    rules = _rules(findings)
    lines = [["claim", "where", *map(_title, rules)], ["---"] * (2 + len(rules))]
    for claim, where, by_rule in _rows(findings, claims):
        sentence = claim.sentence + (f" [{claim.unit}]" if claim.unit else "")
        found = [by_rule.get(rule) for rule in rules]
        lines.append([sentence, where, *(f"{_short(f)}" if f else "" for f in found)])
    legend = (
        "✓ supported, ✗ not supported, ? inconclusive (in brackets: seeds that would decide it), each "
        "with its estimate. Verdicts are by 95% intervals, each for its own cell, not corrected for "
        "their number. Words in “ ” are the paper's."
    )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{legend}\n"


def _rules(findings: Sequence[Finding]) -> list[str]:
    return list(dict.fromkeys(finding.rule for finding in findings))


def _title(rule: str) -> str:
    return "all cosines" if rule == ALL_COSINES else rule


def _rows(findings: Sequence[Finding], claims: Sequence[Claim]) -> list[_Row]:
    rows: dict[tuple[str, str], _Row] = {}
    by_id = {claim.id: claim for claim in claims}
    for finding in findings:
        where = " ".join(filter(None, (finding.part, finding.cell)))
        row = rows.setdefault((finding.claim, where), (by_id[finding.claim], where, {}))
        row[2][finding.rule] = finding
    return list(rows.values())


def _short(finding: Finding) -> str:
    needed = f" ({finding.seeds_needed})" if finding.seeds_needed else ""
    return f"{SIGNS[finding.verdict]} {_number(finding.estimate)}{needed}"


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "-"
