"""The folder of a study: which of its runs are done, the score of each rule in each cell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Literal, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table

from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.files import ensure_writable, write_atomically
from alignonce.experiments.runs.finding import find_folder
from alignonce.experiments.runs.folder import RunFolder
from alignonce.experiments.runs.scores import final_score
from alignonce.experiments.studies.study import Cell, Part, Study, parse_study

RunState = Literal["done", "diverged", "failed", "waiting"]


class PlannedRun(NamedTuple):
    """One run of a study, and where it lies or will lie."""

    cell: Cell
    config: RunConfig
    folder: RunFolder

    @property
    def name(self) -> str:
        """For people: part, cell, rule, seed."""
        where = " ".join(filter(None, (self.cell.part, self.cell.name)))
        return f"{where}: {self.config.rule}, seed {self.config.seed}"


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

    def runs(self, study: Study) -> list[PlannedRun]:
        """Find the folder of each run: where it is finished, or the first that holds no finished run.

        Args:
            study: the study.

        Returns:
            All its runs, in order.
        """
        return [
            PlannedRun(cell, run, find_folder(self.path / cell.folder, run)) for cell, run in study.runs()
        ]

    def states(self, study: Study) -> list[tuple[PlannedRun, RunState]]:
        """Look at each run.

        Args:
            study: the study.

        Returns:
            The runs in order, with their states.
        """
        failed = self.failures()
        return [(run, _state(run, failed)) for run in self.runs(study)]

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


def _state(run: PlannedRun, failed: dict[str, str]) -> RunState:
    if run.folder.is_finished():
        return "diverged" if run.folder.status() == "diverged" else "done"
    return "failed" if run.name in failed else "waiting"


LEGEND = (
    "Means over finished seeds of test accuracy (%), or of what else the task is scored by; "
    "x: a diverged run; .: one still to be done."
)


def cell_tables(folder: StudyFolder, study: Study) -> list[Table]:
    """Tabulate a study as far as it is done.

    Args:
        folder: its folder.
        study: the study.

    Returns:
        A table for each part: a line for each rule, a column for each cell; the mean score over the seeds
        done, accuracy in percent, `x` for each diverged run, `.` for each that is still to be done.
    """
    states = folder.states(study)
    return [_part_table(part, [s for s in states if s[0].cell.part == part.name]) for part in study.parts]


def _part_table(part: Part, states: Sequence[tuple[PlannedRun, RunState]]) -> Table:
    cells = list(dict.fromkeys(run.cell for run, _ in states))
    table = Table(
        title=f"{part.name}: {part.title}", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("rule", no_wrap=True)
    for cell in cells:
        table.add_column("\n".join(cell.name.split()) or "score", justify="right")
    for rule in dict.fromkeys(run.config.rule for run, _ in states):
        line = []
        for cell in cells:
            mine = [(run, state) for run, state in states if run.cell == cell and run.config.rule == rule]
            finals = [final_score(run.folder.summary()) for run, state in mine if state == "done"]
            known = [value for _, value in finals if value is not None]
            decimals = finals[0][0].decimals if finals else 0
            marks = "".join({"diverged": "x", "done": ""}.get(state, ".") for _, state in mine)
            line.append(" ".join(filter(None, (f"{fmean(known):.{decimals}f}" if known else "", marks))))
        table.add_row(rule, *line)
    return table
