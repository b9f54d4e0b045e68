"""Writing a report: its page, figures and tables, the tables as CSV and as Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from alignonce.experiments.figures.painting import draw_plot
from alignonce.experiments.figures.style import save_figure
from alignonce.experiments.files import ensure_writable, write_atomically
from alignonce.experiments.report.content import ReportContent
from alignonce.experiments.report.markdown import results_markdown
from alignonce.experiments.report.page import report_page
from alignonce.experiments.report.plots_claims import claim_plot, claim_sweep_plot
from alignonce.experiments.report.verdict_figure import verdict_figure

_FACT_TYPES = {
    "part": pa.string(), "cell": pa.string(), "run": pa.string(), "rule": pa.string(), "seed": pa.int64(),
    "group": pa.string(), "measure": pa.string(), "item": pa.string(), "setting": pa.string(),
    "step": pa.int64(), "images": pa.int64(), "value": pa.float64(),
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
    files += write_table(content.facts.columns(), _FACT_TYPES, out / "numbers")
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


def write_table(
    columns: Mapping[str, Sequence[Any]], types: Mapping[str, pa.DataType], path: Path
) -> list[Path]:
    """Write a table twice.

    Args:
        columns: names and values, all as long as each other.
        types: of each column, in its order in the files.
        path: of the files, whose suffix is replaced.

    Returns:
        The CSV file, in which numbers are written so that they read back exactly, and the Parquet file.
    """
    files = [path.with_suffix(".csv"), path.with_suffix(".parquet")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(types)
    writer.writerows(zip(*(columns[name] for name in types), strict=True))
    write_atomically(files[0], text.getvalue())
    table = pa.table({name: pa.array(columns[name], kind) for name, kind in types.items()})
    write_atomically(files[1], lambda temporary: pq.write_table(table, temporary))
    return files
