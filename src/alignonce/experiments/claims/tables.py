"""Findings as a table for the terminal, and as one for a text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from alignonce.experiments.claims.catalogue import CLAIMS
from alignonce.experiments.claims.questions import SIGNS, Claim, Finding
from alignonce.experiments.config.rule_specs import ALL_COSINES

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
        caption="✓ supported, ✗ not supported, ? inconclusive",
        caption_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0),
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
