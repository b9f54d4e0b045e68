"""`alignonce report` and `alignonce reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from alignonce.cli import study as study_command
from alignonce.cli.common import INTERRUPTED, OK

if TYPE_CHECKING:
    from rich.console import Console

    from alignonce.experiments.studies.folder import StudyFolder


def report(out: tyro.conf.Positional[Path]) -> int:
    """Write the report of a study: what its numbers say about each claim of the paper.

    Makes OUT/report: report.html, a page that needs nothing but itself; the figures as PNG and PDF; all
    numbers and verdicts as CSV and Parquet; results.md. A study that is not finished is reported as far as
    it is.

    For example:
      alignonce report runs/quick

    Args:
        out: The folder of the study.

    Returns:
        The exit code.
    """
    from rich.console import Console

    from alignonce.experiments.studies.folder import StudyFolder

    _write(StudyFolder(out), Console())
    return OK


def reproduce(
    study: str = "quick",
    out: Path | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    cache: Path | None = None,
    hub: bool = True,
) -> int:
    """Test every claim of the paper on real data, and write the report.

    The same as `alignonce study run` and then `alignonce report`. The quick study takes about 25 minutes on
    two cores. Interrupted, even by a power cut, it goes on with the same command and ends with the same
    numbers. Exit codes are those of `alignonce study run`; a claim that is not supported is no failure.

    For example:
      alignonce reproduce                             # the quick study
      alignonce reproduce --study paper --dry-run     # how many runs, how long, how large

    Args:
        study: A shipped study, quick or paper, or a study file (YAML).
        out: Folder for the results. None: runs/NAME-OF-THE-STUDY.
        workers: Runs at a time. None: one for each core, or one if there is a GPU.
        dry_run: Only count the runs, and estimate time and disk.
        cache: Folder where downloaded data sets are kept.
        hub: Whether a data set that is not on this machine may be downloaded.

    Returns:
        The exit code.
    """
    from rich.console import Console

    import alignonce.experiments.report  # noqa: F401  a package that it misses is to be known before the runs, not after
    from alignonce.experiments.studies.folder import StudyFolder
    from alignonce.experiments.studies.study import load_study

    place = out if out is not None else Path("runs") / load_study(study).name
    code = study_command.run(study, place, workers, dry_run=dry_run, cache=cache, hub=hub)
    if not dry_run and code != INTERRUPTED:
        _write(StudyFolder(place), Console())
    return code


def _write(folder: StudyFolder, console: Console) -> None:
    from alignonce.experiments.bars import Bars
    from alignonce.experiments.report import write_report
    from alignonce.experiments.report.content import gather
    from alignonce.experiments.report.markdown import findings_count, findings_table

    with Bars(console) as bars:
        content = gather(folder, bars.add("judging claims"))
        files = write_report(content, folder.path / "report", bars.add("drawing the report"))
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
