"""The figure of a claim: each seed, the estimate and its interval by rule, and the threshold."""

from __future__ import annotations

import math

from alignonce.experiments.claims.finding import Claim, Finding
from alignonce.report.content import ReportContent
from alignonce.report.panels import Interval, Panel, Plot, Series
from alignonce.report.verdicts import findings_of, where


def claim_plot(claim: Claim, content: ReportContent) -> Plot:
    """Make the figure of a claim.

    Args:
        claim: one of the report.
        content: of the report.

    Returns:
        The figure; it has no panels if nothing was found.
    """
    places: dict[str, list[Finding]] = {}
    for finding in findings_of(claim, content):
        places.setdefault(where(finding, content), []).append(finding)
    return Plot(
        f"claim-{claim.id}",
        claim.sentence,
        "Small marks: one seed each. Diamonds: the estimate from all seeds, with its 95% interval, whichever "
        "seeds are shown. Dashed line: the threshold.",
        tuple(_panel(claim, title, findings) for title, findings in places.items()),
    )


def _panel(claim: Claim, title: str, findings: list[Finding]) -> Panel:
    return Panel(
        title,
        "dots",
        " ".join(filter(None, (claim.statistic, f"({claim.unit})" if claim.unit else ""))),
        tuple(
            Series(finding.rule, seed, (value,))
            for finding in findings
            for seed, value in finding.per_seed.items()
        ),
        log=claim.kind == "ratio",
        mark=claim.threshold,
        mark_label="threshold",
        intervals=tuple(
            Interval(finding.rule, finding.estimate, finding.low, finding.high)
            for finding in findings
            if math.isfinite(finding.estimate)
        ),
    )
