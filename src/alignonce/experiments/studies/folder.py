"""The folder of a study: which of its runs are done, and that one process at a time works in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, NamedTuple

from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.files import ensure_writable, write_atomically
from alignonce.experiments.runs.folder import RunFolder, find_folder
from alignonce.experiments.studies.study import Cell, Study, parse_study

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
