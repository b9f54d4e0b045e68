"""`alignonce report` and `alignonce reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from alignonce.cli.common import FROM_ANYWHERE, INTERRUPTED, OK, Source
from alignonce.cli.study import print_end

if TYPE_CHECKING:
    from rich.console import Console

    from alignonce.experiments.studies.folder import StudySnapshot


def report(out: tyro.conf.Positional[Path]) -> int:
    """Write the report of a study: its verdict on each claim of the paper.

    Writes to the folder `report` in the study's: report.html, one self-contained page; the figures as PNG
    and PDF; all numbers and verdicts as CSV and Parquet; results.md. A study may be reported before it is
    finished.

    For example:
      alignonce report runs/quick

    Args:
        out: The folder of the study.

    Returns:
        The exit code.
    """
    from rich.console import Console

    import alignonce.experiments.report  # noqa: F401  a package that it misses is to be known first
    from alignonce.experiments.studies.folder import StudyFolder

    _write(StudyFolder(out).snapshot(), Console())
    return OK


def reproduce(
    study: str = "quick",
    out: Path | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    source: Source = FROM_ANYWHERE,
) -> int:
    """Test every claim of the paper on real data, and write the report.

    The same as `alignonce study run`, then `alignonce report`. The quick study takes about 25 minutes on two
    cores. If it is interrupted, even by a power cut, give the same command again: the numbers will be the
    same. Exit codes are those of `alignonce study run`; a claim that is not supported is not a failure.

    For example:
      alignonce reproduce                             # the quick study
      alignonce reproduce --study paper --dry-run     # how many runs, how long, how large

    Args:
        study: A shipped study (quick, paper, language), or a study file (YAML).
        out: Folder for the results. None: runs/NAME-OF-THE-STUDY.
        workers: Runs at a time. None: one for each core, or one if there is a GPU.
        dry_run: Only count the runs, and estimate time and disk space.
        source: where data come from.

    Returns:
        The exit code.
    """
    from rich.console import Console

    import alignonce.experiments.report  # noqa: F401  a package that it misses is to be known before the runs, not after
    from alignonce.experiments.studies.estimate import print_estimate
    from alignonce.experiments.studies.execution import run_study
    from alignonce.experiments.studies.folder import StudyFolder
    from alignonce.experiments.studies.study import load_study

    console, loaded = Console(), load_study(study)
    folder = StudyFolder(out if out is not None else Path("runs") / loaded.name)
    if dry_run:
        print_estimate(folder.snapshot(loaded), source.source(), console, workers)
        return OK
    result = run_study(loaded, folder, source.source(), console, workers=workers)
    code = print_end(result, console)
    if code != INTERRUPTED:
        _write(result.snapshot, console)
    return code


def _write(snapshot: StudySnapshot, console: Console) -> None:
    from alignonce.experiments.bars import Bars
    from alignonce.experiments.report import write_report
    from alignonce.experiments.report.content import gather
    from alignonce.experiments.report.markdown import findings_count, findings_table

    with Bars(console) as bars:
        content = gather(snapshot, bars.add("judging claims"))
        files = write_report(content, snapshot.folder.path / "report", bars.add("drawing the report"))
    # Findings at single settings of a part are too many for a terminal.
    main = [finding for finding in content.findings if not finding.cell]
    of_settings = [finding for finding in content.findings if finding.cell]
    if main:
        console.print(findings_table(main))
        print(f"{findings_count(main)}.")
    if of_settings:
        print(f"At each depth, learning rate and so on: {findings_count(of_settings)}; see the report.")
    if not content.findings:
        print("No claim could be judged: each needs runs of the rules that it compares, and their measures.")
    print(f"Report: {files[0]}")
