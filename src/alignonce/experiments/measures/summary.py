"""The headline numbers of an analysis, for the terminal, and numbers that follow from other rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table

from alignonce.experiments.facts import USUAL_EPS, Fact, Facts
from alignonce.experiments.measures.subjects import Subject
from alignonce.experiments.setting import NO_SETTING, Setting
from alignonce.robustness import CorruptionReport, CorruptionRow

_CAPTION = (
    "angle: of the gradient to the exact one, degrees; gap, ECE, accuracies in %; corr.: under corruptions"
)


class _Column(NamedTuple):
    title: str
    group: str
    measure: str
    item: str = ""
    setting: Setting = NO_SETTING
    percent: bool = False


_COLUMNS = (
    _Column("λ max", "curvature", "eigenvalue", setting=Setting.of(rank=1)),
    _Column("trace", "curvature", "trace"),
    _Column("sharp", "curvature", "sharpness"),
    _Column("angle", "alignment", "gradient.total.angle_deg"),
    _Column("gap", "generalisation", "accuracy_gap", percent=True),
    _Column("ECE", "generalisation", "calibration_error", percent=True),
    _Column("corr.", "corruptions", "mean_accuracy", percent=True),
    _Column("exact", "adversarial", "accuracy", "pgd", Setting.of(route="exact"), True),
    _Column("feedb.", "adversarial", "accuracy", "pgd", Setting.of(route="feedback"), True),
    _Column("transf.", "adversarial", "accuracy", "pgd", Setting.of(route="transfer"), True),
    _Column("Square", "adversarial", "accuracy", "square", percent=True),
)


def summary_table(table: Facts) -> Table:
    """Tabulate the headline numbers, one line per rule, means over the seeds.

    Args:
        table: the analysis.

    Returns:
        The table, to be printed by rich; columns that nothing was measured for are left out.
    """
    table = table.pick(step=None)
    eps = _shown_eps(table)
    rules = table.distinct("rule")
    cells = {column: [_cell(table, column, rule, eps) for rule in rules] for column in _COLUMNS}
    shown = [column for column in _COLUMNS if any(cells[column])]
    attacks = (
        f"; exact, feedback, transfer: PGD by these\nroutes; it and Square at {255 * eps:.3g}/255, L-inf"
        if eps is not None
        else ""
    )
    result = Table(
        caption=_CAPTION + attacks, caption_justify="left",
        box=SIMPLE_HEAD, padding=0, pad_edge=False,
    )  # fmt: skip
    result.add_column("rule", no_wrap=True)
    for column in shown:
        result.add_column(column.title, justify="right", no_wrap=True)
    for place, rule in enumerate(rules):
        result.add_row(rule, *(cells[column][place] or "-" for column in shown))
    return result


def masking_lines(table: Facts) -> list[str]:
    """Say in words what looks like gradient masking.

    Args:
        table: the analysis.

    Returns:
        A line for each run: what was found, first things first, or that nothing was.
    """
    findings = table.pick(group="adversarial", measure="masking")
    lines = []
    for run in findings.distinct("run"):
        first, *others = (str(row.setting) for row in findings.pick(run=run))
        more = (
            f" And {len(others)} more, see the table: its numbers by the exact route flatter, too."
            if others
            else ""
        )
        lines.append(f"{run}: {first}{more}")
    return lines


def _shown_eps(table: Facts) -> float | None:
    """The measured radius that is nearest to the usual one."""
    rows = table.pick(group="adversarial", measure="accuracy")
    found = {row.setting.number("eps") for row in rows} - {0.0}
    return min(found, key=lambda eps: abs(eps - USUAL_EPS), default=None)


def _cell(table: Facts, column: _Column, rule: str, eps: float | None) -> str:
    rows: Sequence[float] = [
        row.value
        for row in table.pick(rule=rule, group=column.group, measure=column.measure, item=column.item)
        if row.setting.includes(column.setting)
        and (column.group != "adversarial" or row.setting.number("eps") == eps)
        and math.isfinite(row.value)
    ]
    if not rows:
        return ""
    mean = fmean(rows)
    return f"{100 * mean:.1f}" if column.percent else _short(mean)


def _short(value: float) -> str:
    if 1e-2 <= abs(value) < 1e4 or value == 0:
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return f"{value:.1e}".replace("e+0", "e").replace("e-0", "e-")


def corruption_report(table: Facts, run: str) -> CorruptionReport | None:
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
        CorruptionRow(r.item, int(r.setting.number("severity")), r.value) for r in rows if r.item != "none"
    )
    return CorruptionReport(clean[0], corrupted) if clean and corrupted else None


def corruption_summaries(table: Facts, subject: Subject) -> Iterator[Fact]:
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
    images = next(iter(table.pick(run=subject.name, group="corruptions"))).images

    def fact(measure: str, value: float, item: str = "") -> Fact:
        return subject.named("corruptions", Fact(measure=measure, item=item, images=images, value=value))

    yield fact("mean_accuracy", report.mean_accuracy)
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
    yield fact("mce", relative.mce)
    yield fact("relative_mce", fmean(of_added.values()))
    for name, (ratio, _) in relative.by_corruption.items():
        yield fact("mce", ratio, name)
        yield fact("relative_mce", of_added[name], name)
