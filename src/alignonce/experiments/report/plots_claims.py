"""The figures of a claim: each seed, the estimate and its interval by rule, and the threshold."""

from __future__ import annotations

import math
from collections.abc import Iterator

from alignonce.experiments.claims import Claim, Finding
from alignonce.experiments.facts import cell_settings
from alignonce.experiments.figures.panels import Interval, Panel, Plot, Series
from alignonce.experiments.report.content import ReportContent
from alignonce.experiments.report.subjects import along_words, other_settings, swept_setting
from alignonce.experiments.report.verdicts import findings_of, where


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
        tuple(_dots(claim, title, findings) for title, findings in places.items()),
    )


def claim_sweep_plot(claim: Claim, content: ReportContent) -> Plot:
    """Make the figure of a claim against the numbers that the study varies, such as depth.

    Args:
        claim: one of the report.
        content: of the report.

    Returns:
        The figure; it has no panels if nothing was found.
    """
    return Plot(
        f"claim-{claim.id}-varied",
        claim.sentence,
        "Thick lines: mean over the seeds; thin lines: each seed. Dashed line: the threshold.",
        tuple(_lines(claim, content)),
    )


def _dots(claim: Claim, title: str, findings: list[Finding]) -> Panel:
    return Panel(
        title,
        "dots",
        _values(claim),
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


def _lines(claim: Claim, content: ReportContent) -> Iterator[Panel]:
    findings = findings_of(claim, content, detail=True)
    for part in content.study.parts:
        swept = swept_setting(part) or ""
        groups: dict[str, dict[tuple[str, int], dict[float, float]]] = {}
        for finding in findings:
            if finding.part == part.name:
                runs = groups.setdefault(other_settings(finding.cell, swept), {})
                place = float(cell_settings(finding.cell)[swept])
                for seed, value in finding.per_seed.items():
                    runs.setdefault((finding.rule, seed), {})[place] = value
        for group, runs in groups.items():
            yield Panel(
                " · ".join(filter(None, (part.title, group))), "lines", _values(claim),
                tuple(
                    Series(rule, seed, tuple(at[x] for x in sorted(at)), tuple(sorted(at)))
                    for (rule, seed), at in runs.items()
                ),
                along=along_words(swept), log_along=swept == "learning_rate", log=claim.kind == "ratio",
                mark=claim.threshold, mark_label="threshold",
            )  # fmt: skip


def _values(claim: Claim) -> str:
    return f"{claim.statistic} ({claim.unit})" if claim.unit else claim.statistic
