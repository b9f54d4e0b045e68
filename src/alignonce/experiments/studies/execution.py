"""Running a study: first all training, then all measuring; what is done already is not done again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console

from alignonce.experiments.bars import JobBars
from alignonce.experiments.config.devices import pick_device
from alignonce.experiments.data.source import DataSource
from alignonce.experiments.files import locked
from alignonce.experiments.measures.groups import GROUPS, check_libraries
from alignonce.experiments.studies.folder import RunState, StudyFolder, StudyRun, StudySnapshot
from alignonce.experiments.studies.jobs import Measure, Train, TrainTogether
from alignonce.experiments.studies.pool import Job, OnEnd, OnStart, default_workers, run_in_processes
from alignonce.experiments.studies.study import Study
from alignonce.experiments.training.together import groups_of

Executor = Callable[[Sequence[Job], OnStart, OnEnd], None]
"""Does jobs, and reports when each begins and ends."""


@dataclass(frozen=True)
class StudyResult:
    """How a study ended: its runs, and what failed, with the reasons."""

    snapshot: StudySnapshot
    skipped: int
    """Runs that were finished before."""
    interrupted: bool

    @property
    def states(self) -> list[tuple[StudyRun, RunState]]:
        """All runs in order, with their states."""
        return self.snapshot.states

    @property
    def failures(self) -> Mapping[str, str]:
        """Names of runs and measurements that failed, and why."""
        return self.snapshot.failures


def run_study(
    study: Study,
    folder: StudyFolder,
    source: DataSource,
    console: Console | None = None,
    *,
    workers: int | None = None,
    executor: Executor | None = None,
    together: bool = False,
) -> StudyResult:
    """Do all runs of a study that are not done, and measure the trained networks.

    A run or a measurement that fails does not stop the others. Ctrl-C stops all; finished runs stay. However
    the process ends, the same call goes on from there, and only what was in progress is done again.

    Args:
        study: the study.
        folder: where the results go.
        source: where data come from.
        console: where to show progress; None shows none.
        workers: processes at a time; None takes one for each core, or a single one if there is a GPU.
        executor: does the jobs; None does them in processes on this machine.
        together: whether runs that differ in seed and rule only are trained in one program, to the same
            results up to rounding.

    Returns:
        How it ended.

    Raises:
        ValueError: a library is missing, or workers is below 1.
        BlockingIOError: another process is running this study.
        FileExistsError: the folder holds another study.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be 1 or more, got {workers}")
    for cell in study.cells():
        pick_device(cell.config.device)
        if cell.measure is not None:
            check_libraries([GROUPS[name] for name in cell.measure.measures])
    if executor is None:
        executor = _local(workers or default_workers())
    folder.begin(study)
    failures: dict[str, str] = {}
    interrupted = False

    def do(jobs: Sequence[Job], title: str) -> None:
        with JobBars(console, title, len(jobs)) as bars:

            def ended(job: Job, reason: str | None) -> None:
                if reason is not None:
                    failures.update(dict.fromkeys(job.covers, reason))
                bars.end(job.name)

            executor(jobs, lambda job: bars.start(job.name), ended)

    with locked(folder.path):
        before = after = folder.snapshot(study)
        try:
            do(_trainings(before.waiting, source, together), "training")
            after = before.later(failures)
            do(_measurements(after, source), "measuring")
        except KeyboardInterrupt:
            interrupted = True
        folder.write_failures(failures)
        return StudyResult(after.later(failures), len(before.finished), interrupted)


def _local(workers: int) -> Executor:
    return lambda jobs, started, ended: run_in_processes(jobs, workers, started, ended)


def _trainings(waiting: Sequence[StudyRun], source: DataSource, together: bool) -> list[Job]:
    alone = [Train(run.name, run.config, run.folder.path, source) for run in waiting]
    if not together:
        return list(alone)
    # The runs of a group lie in one folder.
    jobs: list[Job] = []
    for _, cell in groupby(alone, lambda job: job.folder.parent):
        members = list(cell)
        for group in groups_of([job.config for job in members]):
            chosen = tuple(members[place] for place in group.runs)
            jobs.append(TrainTogether(chosen) if len(chosen) > 1 else chosen[0])
    return jobs


def _measurements(snapshot: StudySnapshot, source: DataSource) -> list[Job]:
    jobs: list[Job] = []
    for (cell_folder, seed), group in groupby(
        snapshot.states, lambda s: (s[0].cell.folder, s[0].config.seed)
    ):
        members = list(group)
        cell = members[0][0].cell
        # A diverged network has nothing to measure.
        trained = tuple(run.folder.path for run, state in members if state == "done")
        if cell.measure is not None and trained:
            where = " ".join(cell_folder.parts)
            name = f"measures of {where}, seed {seed}"
            jobs.append(Measure(name, trained, cell.measure, snapshot.folder.analysis(cell, seed), source))
    return jobs
