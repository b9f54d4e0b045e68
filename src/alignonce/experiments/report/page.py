"""The report as one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from typing import Any

from jinja2 import Environment as Templates
from jinja2 import PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from alignonce.experiments.claims import SIGNS, Claim, Finding
from alignonce.experiments.figures.panels import NONE, Plot, number_tables, shown
from alignonce.experiments.figures.style import dark_page_color, label_of, rule_color
from alignonce.experiments.report.content import ReportContent
from alignonce.experiments.report.plots_claims import claim_plot, claim_sweep_plot
from alignonce.experiments.report.verdicts import (
    ORDER,
    estimate_words,
    findings_of,
    interval_words,
    judged_rules,
    needed_words,
    statistic_words,
    summary_words,
    threshold_words,
    verdict_rows,
    where,
)
from alignonce.experiments.report.words import (
    METHOD,
    diverged_words,
    environment_words,
    part_words,
    run_words,
)


def report_page(content: ReportContent) -> str:
    """Write the page.

    Args:
        content: of the report.

    Returns:
        HTML, in which everything that comes from the study is escaped.
    """
    plots = content.plots()
    sections = _sections(content)
    claim_plots = [
        claim[name]
        for section in sections
        for claim in section["claims"]
        for name in ("plot", "varied_plot")
        if claim[name]
    ]
    plotly, script = get_plotlyjs().replace("\r\n", "\n"), _resource("page.js")
    templates = Templates(
        loader=PackageLoader("alignonce.experiments", "report"), autoescape=True, undefined=StrictUndefined
    )
    return templates.get_template("page.html.jinja").render(
        policy=_policy(plotly, script),
        css=Markup(_resource("page.css")),
        plotly=Markup(plotly),
        script=Markup(script),
        data=Markup(_json(_data(content, [*claim_plots, *plots]))),
        study=content.study,
        environment=content.environments[0],
        rules=_rules(content),
        seeds=content.seeds,
        summary=f"{run_words(content)} {summary_words(content.findings)}",
        verdicts=_verdicts(content, detail=False),
        varied_verdicts=_verdicts(content, detail=True),
        verdict_rules=[{"label": label_of(rule)} for rule in judged_rules(content)],
        icons=SIGNS,
        order=ORDER,
        facts=environment_words(content),
        parts=[part_words(part, content.study) for part in content.study.parts],
        sections=sections,
        unmeasured=[title for title in _titles(content.claims) if title not in _titles(_measured(content))],
        plots=plots,
        numbers={plot.name: number_tables(plot) for plot in plots},
        failures=content.failures,
        diverged=diverged_words(content),
        method=METHOD,
        made_by=" && ".join(content.commands),
        reproduce="\n".join(content.commands),
    )


def _verdicts(content: ReportContent, detail: bool) -> list[dict[str, Any]]:
    return [
        {
            "claim": row.claim,
            "statistic": statistic_words(row.claim),
            "where": row.where,
            "findings": [f and _finding(f, row.claim, content) for f in row.findings],
        }
        for row in verdict_rows(content, detail)
    ]


def _measured(content: ReportContent) -> list[Claim]:
    found = {finding.claim for finding in content.findings}
    return [claim for claim in content.claims if claim.id in found]


def _titles(claims: Sequence[Claim]) -> list[str]:
    """Name the sections of claims, in their order."""
    return list(dict.fromkeys(claim.section for claim in claims))


def _sections(content: ReportContent) -> list[dict[str, Any]]:
    """Gather the claims of each section of which the study measures at least one."""
    return [
        {
            "title": title,
            "anchor": f"section-{number}",
            "claims": [_claim(claim, content) for claim in content.claims if claim.section == title],
        }
        for number, title in enumerate(_titles(_measured(content)), start=1)
    ]


def _claim(claim: Claim, content: ReportContent) -> dict[str, Any]:
    return {
        **{name: getattr(claim, name) for name in ("id", "sentence", "measured", "statistic", "unit")},
        "threshold": threshold_words(claim),
        "plot": claim_plot(claim, content).drawable,
        "findings": _findings(claim, content, detail=False),
        "varied_plot": claim_sweep_plot(claim, content).drawable,
        "varied_findings": _findings(claim, content, detail=True),
    }


def _findings(claim: Claim, content: ReportContent, detail: bool) -> list[dict[str, Any]]:
    return [_finding(finding, claim, content) for finding in findings_of(claim, content, detail)]


def _finding(finding: Finding, claim: Claim, content: ReportContent) -> dict[str, Any]:
    return {
        "verdict": finding.verdict,
        "rule_label": label_of(finding.rule),
        "baseline_label": label_of(finding.baseline) if finding.baseline else NONE,
        "where": where(finding, content),
        "estimate": shown(finding.estimate),
        "interval": interval_words(finding) or NONE,
        "estimate_text": estimate_words(finding, claim.unit),
        "needed_text": needed_words(finding),
        "note": finding.note,
        "per_seed": [f"{seed}: {shown(value)}" for seed, value in finding.per_seed.items()],
        "sort": finding.estimate,
        "sort_low": finding.low,
    }


def _rules(content: ReportContent) -> list[dict[str, str]]:
    return [
        {"spec": rule, "label": label_of(rule), "light": rule_color(rule), "dark": dark_page_color(rule)}
        for rule in content.rules
    ]


def _data(content: ReportContent, plots: list[Plot]) -> dict[str, Any]:
    return {
        "rules": _rules(content),
        "seeds": content.seeds,
        "plots": {
            plot.name: {"rules": plot.rules, "panels": [asdict(panel) for panel in plot.panels]}
            for plot in plots
        },
    }


def _json(value: Any) -> str:
    """Write JSON that can stand in a script element, whatever its texts say."""
    text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _finite(value: Any) -> Any:
    """Put null for NaN and infinity, which JSON does not know; six digits are more than a screen shows."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _policy(*scripts: str) -> str:
    """Let these scripts run and no others, and nothing come from a network."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _resource(name: str) -> str:
    return (resources.files("alignonce.experiments.report") / name).read_text(encoding="utf-8")
