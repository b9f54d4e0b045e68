"""The folder of a study: which of its runs are done, the score of each rule in each cell."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table

from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.files import ensure_writable, write_atomically
from alignonce.experiments.runs.finding import find_run
from alignonce.experiments.runs.folder import RunFolder, RunRecord
from alignonce.experiments.runs.records import Environment, Summary
from alignonce.experiments.runs.scores import final_score
from alignonce.experiments.studies.study import Cell, Part, Study, parse_study

RunState = Literal["done", "diverged", "failed", "waiting"]


@dataclass(frozen=True)
class StudyRun:
    """One run of a study, as far as it is done, and where it lies or will lie."""

    cell: Cell
    config: RunConfig
    folder: RunFolder
    summary: Summary | None
    """How it ended; None if it is not finished."""

    @property
    def name(self) -> str:
        """For people: part, cell, rule, seed."""
        where = " ".join(filter(None, (self.cell.part, self.cell.name)))
        return f"{where}: {self.config.rule}, seed {self.config.seed}"

    @cached_property
    def environment(self) -> Environment:
        """What a finished run was computed with."""
        return self.folder.environment()

    def record(self, summary: Summary) -> RunRecord:
        """Read the rest of a finished run.

        Args:
            summary: how it ended.

        Returns:
            All that is known of it.
        """
        return RunRecord(self.folder.path, self.config, self.environment, self.folder.metrics(), summary)


@dataclass(frozen=True)
class StudySnapshot:
    """A study and its folder as they were at one moment: what all who look at a study read it from."""

    folder: StudyFolder
    study: Study
    runs: tuple[StudyRun, ...]
    """In the order of the study."""
    failures: Mapping[str, str]
    """Names of runs and measurements that failed last time, and why."""

    @property
    def finished(self) -> list[tuple[StudyRun, Summary]]:
        """The runs that are finished, and how they ended."""
        return [(run, run.summary) for run in self.runs if run.summary is not None]

    @property
    def waiting(self) -> list[StudyRun]:
        """The runs that are still to be done."""
        return [run for run in self.runs if run.summary is None]

    @property
    def states(self) -> list[tuple[StudyRun, RunState]]:
        """All runs in order, with their states."""
        return [(run, self._state(run)) for run in self.runs]

    def _state(self, run: StudyRun) -> RunState:
        if run.summary is not None:
            return "diverged" if run.summary.status == "diverged" else "done"
        return "failed" if run.name in self.failures else "waiting"

    def later(self, failures: Mapping[str, str]) -> StudySnapshot:
        """Look again at what was not finished; a finished run never changes.

        Args:
            failures: what has failed since.

        Returns:
            The study as it is now.
        """
        runs = tuple(run if run.summary is not None else self.folder.look(run) for run in self.runs)
        return replace(self, runs=runs, failures=failures)


class StudyFolder:
    """The results of a study on disk.

    | file | what is in it |
    |---|---|
    | `study.json` | the study |
    | `PART/CELL/RULE-seedSEED/` | a run |
    | `PART/CELL/analysis/seedSEED/` | what was measured of the trained networks |
    | `failures.json` | runs and measurements that failed last time, and why |
    | `report/` | the report |

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, study: Study) -> None:
        """Write down the study, or go on with it; runs may have been added to it since.

        Args:
            study: the study.

        Raises:
            FileExistsError: another study lies here.
            PermissionError: nothing can be written here.
        """
        ensure_writable(self.path)
        if (self.path / "study.json").exists() and (old := self.study()).name != study.name:
            raise FileExistsError(f"out: {self.path} holds the study {old.name}; choose another folder")
        write_atomically(self.path / "study.json", study.model_dump_json(indent=2) + "\n")

    def study(self) -> Study:
        """Read the study.

        Returns:
            As it was when it was last run.

        Raises:
            FileNotFoundError: there is none.
            ValueError: the file is damaged.
        """
        file = self.path / "study.json"
        if not file.exists():
            raise FileNotFoundError(f"{self.path} holds no study (there is no study.json in it)")
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from error
        return parse_study(content, file)

    def snapshot(self, study: Study | None = None) -> StudySnapshot:
        """Read the study and all its runs, once.

        Args:
            study: the study; None reads it, too.

        Returns:
            What is there.

        Raises:
            FileNotFoundError: there is no study in the folder, and none was given.
            ValueError: a file is damaged.
        """
        study = self.study() if study is None else study
        runs = tuple(self._find(cell, config) for cell, config in study.runs())
        return StudySnapshot(self, study, runs, self.failures())

    def look(self, run: StudyRun) -> StudyRun:
        """Look at a run anew.

        Args:
            run: as it was.

        Returns:
            As it is.
        """
        return self._find(run.cell, run.config)

    def _find(self, cell: Cell, config: RunConfig) -> StudyRun:
        return StudyRun(cell, config, *find_run(self.path / cell.folder, config))

    def failures(self) -> dict[str, str]:
        """Read what failed last time.

        Returns:
            Names of runs and measurements, and why.
        """
        try:
            content = json.loads((self.path / "failures.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return (
            {str(name): str(reason) for name, reason in content.items()} if isinstance(content, dict) else {}
        )

    def write_failures(self, failures: dict[str, str]) -> None:
        """Write down what failed.

        Args:
            failures: names and reasons.
        """
        write_atomically(self.path / "failures.json", json.dumps(failures, indent=2) + "\n")

    def analysis(self, cell: Cell, seed: int) -> Path:
        """Name the folder of measurements of some runs.

        Args:
            cell: that they belong to.
            seed: that they share.

        Returns:
            The folder, whether or not it is there.
        """
        return self.path / cell.folder / "analysis" / f"seed{seed}"


LEGEND = (
    "Means over finished seeds of test accuracy (%), or of what else the task is scored by; "
    "x: a diverged run; .: one still to be done."
)


def cell_tables(snapshot: StudySnapshot) -> list[Table]:
    """Tabulate a study as far as it is done.

    Args:
        snapshot: of the study.

    Returns:
        A table for each part: a line for each rule, a column for each cell; the mean score over the seeds
        done, accuracy in percent, `x` for each diverged run, `.` for each that is still to be done.
    """
    return [
        _part_table(part, [run for run in snapshot.runs if run.cell.part == part.name])
        for part in snapshot.study.parts
    ]


def _part_table(part: Part, runs: Sequence[StudyRun]) -> Table:
    table = Table(
        title=f"{part.name}: {part.title}", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("rule", no_wrap=True)
    cells = list(dict.fromkeys(run.cell.name for run in runs))
    for cell in cells:
        table.add_column("\n".join(cell.split()) or "score", justify="right")
    for rule in dict.fromkeys(run.config.rule for run in runs):
        mine = [run for run in runs if run.config.rule == rule]
        table.add_row(rule, *(_entry([run for run in mine if run.cell.name == cell]) for cell in cells))
    return table


def _entry(runs: Sequence[StudyRun]) -> str:
    """The mean score of the runs that are done, and a mark for each of the others."""
    done = [(run.config, run.summary) for run in runs if run.summary and run.summary.status != "diverged"]
    finals = [final_score(config, summary) for config, summary in done]
    known = [value for _, value in finals if value is not None]
    mean = f"{fmean(known):.{finals[0][0].decimals}f}" if known else ""
    marks = "".join("." if run.summary is None else "x" * (run.summary.status == "diverged") for run in runs)
    return " ".join(filter(None, (mean, marks)))
