"""`alignonce study run`, `study status` and `study schema`."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from alignonce.cli.common import FROM_ANYWHERE, INCOMPLETE, INTERRUPTED, OK, Source

if TYPE_CHECKING:
    from rich.console import Console

    from alignonce.experiments.studies.execution import StudyResult
    from alignonce.experiments.studies.folder import StudySnapshot


def run(
    study: tyro.conf.Positional[str],
    out: Path | None = None,
    workers: int | None = None,
    together: bool = False,
    executor: Literal["local", "ray"] = "local",
    address: str | None = None,
    cpus: int = 1,
    gpus: float = 0.0,
    dry_run: bool = False,
    source: Source = FROM_ANYWHERE,
) -> int:
    """Train all networks of a study, and measure them.

    What is finished is not repeated: to resume a study that was interrupted, even by a power cut, give the
    same command again. A failed run does not stop the others; failures are listed at the end and tried
    again next time. Exit code 0: everything was done; 1: something failed; 130: Ctrl-C.

    For example:
      alignonce study run quick
      alignonce study run my-study.yaml --workers 4 --out runs/mine
      alignonce study run paper --executor ray --address auto --gpus 0.5
      alignonce study run paper --dry-run             # how many runs, how long, how large
      tensorboard --logdir runs/quick                 # in another terminal: watch

    Args:
        study: A study file (YAML), or the name of a shipped study: quick, paper, language.
        out: Folder for the results. None: runs/NAME-OF-THE-STUDY.
        workers: Runs at a time, on this machine. None: one for each core, or one if there is a GPU.
        together: Train runs that differ only in seed and rule as one stack of networks: faster on a GPU.
        executor: Where to run: in processes on this machine, or spread over a Ray cluster.
        address: Ray cluster, such as auto or ray://head:10001. None: start Ray on this machine.
        cpus: CPUs per run on the Ray cluster.
        gpus: GPUs per run on the Ray cluster; 0.25 puts four runs on one GPU.
        dry_run: Only count the runs, and estimate time and disk space.
        source: where data come from.

    Returns:
        The exit code.
    """
    from rich.console import Console

    from alignonce.experiments.studies.folder import StudyFolder
    from alignonce.experiments.studies.study import load_study

    console = Console()
    loaded = load_study(study)
    folder = StudyFolder(out if out is not None else Path("runs") / loaded.name)
    if dry_run:
        from alignonce.experiments.studies.estimate import print_estimate

        print_estimate(folder.snapshot(loaded), source.source(), console, workers)
        return OK
    from alignonce.experiments.studies.execution import run_study

    spread = None
    if executor == "ray":
        from alignonce.experiments.studies.cluster import Cluster

        spread = Cluster(folder.path, address, cpus, gpus)
    result = run_study(
        loaded, folder, source.source(), console, workers=workers, executor=spread, together=together
    )
    return print_end(result, console)


def status(out: tyro.conf.Positional[Path]) -> int:
    """Show the progress of a study.

    For example:
      alignonce study status runs/quick

    Args:
        out: The folder of the study.

    Returns:
        The exit code.
    """
    from rich.console import Console

    from alignonce.experiments.studies.folder import StudyFolder

    snapshot = StudyFolder(out).snapshot()
    counts = Counter(state for _, state in snapshot.states)
    print(
        ", ".join(f"{count} {state}" for state, count in counts.items()) + f", of {len(snapshot.runs)} runs"
    )
    _print_cells(snapshot, Console())
    for name, reason in snapshot.failures.items():
        print(f"Failed last time: {name}: {reason}")
    return OK


def schema() -> int:
    """Print the JSON schema of study files, for editors that validate and complete.

    For example:
      alignonce study schema > study.schema.json

    Returns:
        The exit code.
    """
    from alignonce.experiments.studies.study import study_schema

    print(study_schema(), end="")
    return OK


def print_end(result: StudyResult, console: Console) -> int:
    """Print how a study ended.

    Args:
        result: how it ended.
        console: where to print.

    Returns:
        The exit code.
    """
    snapshot = result.snapshot
    _print_cells(snapshot, console)
    if result.skipped:
        print(f"{result.skipped} of {len(snapshot.runs)} runs were finished before and not done again.")
    print(f"Results: {snapshot.folder.path}/ (alignonce report {snapshot.folder.path})")
    for name, reason in snapshot.failures.items():
        print(f"Failed: {name}: {reason}", file=sys.stderr)
    if result.interrupted:
        print("Interrupted: finished runs are saved. The same command goes on from here.")
        return INTERRUPTED
    return INCOMPLETE if snapshot.failures else OK


def _print_cells(snapshot: StudySnapshot, console: Console) -> None:
    from alignonce.experiments.studies.folder import LEGEND, cell_tables

    for table in cell_tables(snapshot):
        console.print(table)
    print(LEGEND)
