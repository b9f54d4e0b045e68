"""Writing a report."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from alignonce.experiments.figures import save_figure
from alignonce.experiments.files import ensure_writable, write_atomically
from alignonce.experiments.studies.evidence import Fact
from alignonce.report.content import ReportContent
from alignonce.report.drawing import draw_plot
from alignonce.report.markdown import results_markdown
from alignonce.report.page import report_page
from alignonce.report.plots_claims import claim_plot, claim_sweep_plot
from alignonce.report.tables import write_table
from alignonce.report.verdict_figure import verdict_figure

_FACT_TYPES = {
    "part": pa.string(), "cell": pa.string(), "rule": pa.string(), "seed": pa.int64(), "group": pa.string(),
    "measure": pa.string(), "item": pa.string(), "setting": pa.string(), "images": pa.int64(),
    "value": pa.float64(),
}  # fmt: skip
_VERDICT_TYPES = {
    "claim": pa.string(), "sentence": pa.string(), "part": pa.string(), "cell": pa.string(),
    "rule": pa.string(), "baseline": pa.string(), "estimate": pa.float64(), "low": pa.float64(),
    "high": pa.float64(), "unit": pa.string(), "verdict": pa.string(), "seeds_needed": pa.int64(),
    "note": pa.string(),
}  # fmt: skip


def write_report(
    content: ReportContent, out: Path, on_progress: Callable[[int, int], None] | None = None
) -> list[Path]:
    """Write a report into a folder; files of an earlier report there are replaced.

    | file | what is in it |
    |---|---|
    | `report.html` | the page; needs nothing but itself |
    | `results.md` | verdicts and figures in Markdown |
    | `figures/NAME.png`, `.pdf` | the figures |
    | `numbers.csv`, `.parquet` | every number of every run |
    | `verdicts.csv`, `.parquet` | every finding |

    Args:
        content: of the report.
        out: the folder.
        on_progress: called with the number of figures drawn, which take nearly all of the time, and of all.

    Returns:
        The files.

    Raises:
        PermissionError: nothing can be written there.
    """
    figures = out / "figures"
    ensure_writable(figures)
    files = [out / "report.html", out / "results.md"]
    write_atomically(files[0], report_page(content))
    write_atomically(files[1], results_markdown(content))
    columns: dict[str, list[Any]] = {
        name: [getattr(fact, name) for fact in content.evidence] for name in Fact._fields
    }
    files += write_table(columns, _FACT_TYPES, out / "numbers")
    files += write_table(_verdict_columns(content), _VERDICT_TYPES, out / "verdicts")
    makers = (claim_plot, claim_sweep_plot)
    claims = [plot for claim in content.claims for make in makers if (plot := make(claim, content).drawable)]
    plots = [*content.plots(), *claims]
    drawings = {plot.name: partial(draw_plot, plot) for plot in plots}
    if content.findings:
        drawings = {"verdicts": partial(verdict_figure, content)} | drawings
    for done, (name, draw) in enumerate(drawings.items(), start=1):
        files += save_figure(draw(), figures / f"{name}.png")
        if on_progress is not None:
            on_progress(done, len(drawings))
    return files


def _verdict_columns(content: ReportContent) -> dict[str, list[Any]]:
    claims = {claim.id: claim for claim in content.claims}
    of_finding = {
        name: [getattr(finding, name) for finding in content.findings]
        for name in _VERDICT_TYPES
        if name not in ("sentence", "unit")
    }
    of_claim = {
        name: [getattr(claims[finding.claim], name) for finding in content.findings]
        for name in ("sentence", "unit")
    }
    return of_finding | of_claim
