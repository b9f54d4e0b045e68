"""The verdicts as a table of claims by learning rules, and each finding in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from alignonce.experiments.claims import VERDICTS, Claim, Finding, Verdict
from alignonce.experiments.figures.panels import shown
from alignonce.experiments.figures.style import label_of
from alignonce.experiments.report.content import ReportContent

ORDER: dict[Verdict, int] = {"not supported": 0, "inconclusive": 1, "supported": 2}


class VerdictRow(NamedTuple):
    """One claim at one place of the study; `findings` has a place for each rule."""

    claim: Claim
    where: str
    findings: tuple[Finding | None, ...]


def judged_rules(content: ReportContent) -> list[str]:
    """List the rules that are judged, in the order of the study.

    Args:
        content: of the report.

    Returns:
        The columns of the table.
    """
    judged = {finding.rule for finding in content.findings}
    return [rule for rule in content.rules if rule in judged]


def verdict_rows(content: ReportContent, detail: bool = False) -> list[VerdictRow]:
    """Arrange the findings.

    Args:
        content: of the report.
        detail: those at each value of a number that the study varies, instead of the others.

    Returns:
        One row for each claim, part, cell and baseline with a finding, in the order of the claims.
    """
    rules, rows = judged_rules(content), []
    for claim in content.claims:
        places: dict[tuple[str, str], dict[str, Finding]] = {}
        for finding in findings_of(claim, content, detail):
            places.setdefault((where(finding, content), finding.baseline or ""), {})[finding.rule] = finding
        rows += [
            VerdictRow(claim, place, tuple(map(by_rule.get, rules))) for (place, _), by_rule in places.items()
        ]
    return rows


def findings_of(claim: Claim, content: ReportContent, detail: bool = False) -> list[Finding]:
    """Pick the findings of a claim.

    Args:
        claim: one of the report.
        content: of the report.
        detail: those at each value of a number that the study varies, instead of the others.

    Returns:
        Its findings.
    """
    found = [finding for finding in content.findings if finding.claim == claim.id]
    varied = [finding for finding in found if (finding.part, finding.cell) in content.swept]
    if len(varied) == len(found):
        # They are all there is, and so no details.
        varied = []
    return varied if detail else [finding for finding in found if finding not in varied]


def where(finding: Finding, content: ReportContent) -> str:
    """Say where in the study a finding comes from.

    Args:
        finding: one of the report.
        content: of the report.

    Returns:
        The title of the part, and the cell.
    """
    titles = {part.name: part.title for part in content.study.parts}
    return " · ".join(filter(None, (titles.get(finding.part, finding.part), finding.cell)))


def estimate_words(finding: Finding, unit: str) -> str:
    """Write an estimate with its interval.

    Args:
        finding: the finding.
        unit: of the claim.

    Returns:
        Such as `−0.4 points (95% interval −0.9 to 0.1)`.
    """
    text = " ".join(filter(None, (shown(finding.estimate), unit)))
    return f"{text} (95% interval {interval_words(finding)})" if interval_words(finding) else text


def statistic_words(claim: Claim) -> str:
    """Say in short what is compared with what; several claims may share the paper's sentence.

    Args:
        claim: the claim.

    Returns:
        Such as `difference of test accuracy, against backpropagation`.
    """
    return f"{claim.statistic}, against {label_of(claim.baseline)}" if claim.baseline else claim.statistic


def threshold_words(claim: Claim) -> str:
    """Say when a claim holds.

    Args:
        claim: the claim.

    Returns:
        Such as `Supported if above −2 points.`
    """
    number = f"{claim.threshold:g}".replace("-", "\N{MINUS SIGN}")
    return f"Supported if {claim.side} {' '.join(filter(None, (number, claim.unit)))}."


def interval_words(finding: Finding) -> str:
    """Write an interval.

    Args:
        finding: the finding.

    Returns:
        Such as `−0.9 to 0.1`; "" if it has none.
    """
    if not (math.isfinite(finding.low) and math.isfinite(finding.high)):
        return ""
    return f"{shown(finding.low)} to {shown(finding.high)}"


def needed_words(finding: Finding) -> str:
    """Say how many seeds would decide an inconclusive finding.

    Args:
        finding: the finding.

    Returns:
        A sentence; "" if it is decided, or no number would do.
    """
    return f"About {finding.seeds_needed} seeds would decide it." if finding.seeds_needed else ""


def summary_words(findings: Sequence[Finding]) -> str:
    """Count the verdicts.

    Args:
        findings: of the report.

    Returns:
        Such as `12 findings: 7 supported, 3 not supported, 2 inconclusive.`
    """
    counts = Counter(finding.verdict for finding in findings)
    numbers = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
    return f"{len(findings)} findings: {numbers}."
