"""Numbers that follow from other rows: robustness to corruptions relative to backpropagation's run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import fmean

from alignonce.experiments.measures.subjects import Subject
from alignonce.experiments.measures.table import AnalysisTable, Row, setting_of
from alignonce.robustness import CorruptionReport, CorruptionRow


def corruption_report(table: AnalysisTable, run: str) -> CorruptionReport | None:
    """Put a run's rows together again as the report that they came from.

    Args:
        table: the analysis.
        run: the run's name.

    Returns:
        The report, or None if there are no such rows.
    """
    rows = table.pick(run=run, group="corruptions", measure="accuracy")
    clean = rows.pick(item="none").values
    corrupted = tuple(
        CorruptionRow(r.item, int(setting_of(r, "severity")), r.value) for r in rows if r.item != "none"
    )
    return CorruptionReport(clean[0], corrupted) if clean and corrupted else None


def corruption_summaries(table: AnalysisTable, subject: Subject) -> Iterator[Row]:
    """Summarise a run's corruptions, and compare with backpropagation's run of the same seed, if any.

    Args:
        table: the measured rows of all runs.
        subject: the run.

    Yields:
        Mean accuracy, and the ratios `mce` and `relative_mce`: below 1 is more robust than backpropagation.
        NaN where backpropagation's run has no (added) errors.
    """
    report = corruption_report(table, subject.name)
    if report is None:
        return
    config = subject.record.config
    images = next(iter(table.pick(run=subject.name, group="corruptions"))).images

    def row(measure: str, value: float, item: str = "") -> Row:
        head = (subject.name, config.rule, config.seed, "corruptions")
        return Row(*head, measure, item, "", images, value)

    yield row("mean_accuracy", report.mean_accuracy)
    if subject.reference is None:
        return
    reference = corruption_report(table, subject.reference.name)
    if reference is None:
        return
    relative = report.relative_to(reference)
    # Where corruption adds no error to the reference's, rounding alone makes a ratio of it.
    added: dict[str, float] = {}
    for part in reference.rows:
        added[part.corruption] = added.get(part.corruption, 0.0) + reference.clean_accuracy - part.accuracy
    of_added = {
        name: ratio if abs(added[name]) > 1e-9 else math.nan
        for name, (_, ratio) in relative.by_corruption.items()
    }
    yield row("mce", relative.mce)
    yield row("relative_mce", fmean(of_added.values()))
    for name, (ratio, _) in relative.by_corruption.items():
        yield row("mce", ratio, name)
        yield row("relative_mce", of_added[name], name)
