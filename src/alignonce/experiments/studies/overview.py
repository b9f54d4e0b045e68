"""A study at a glance: the score of each rule in each cell."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from rich.box import SIMPLE_HEAD
from rich.table import Table

from alignonce.experiments.runs.scores import final_score
from alignonce.experiments.studies.folder import PlannedRun, RunState, StudyFolder
from alignonce.experiments.studies.study import Part, Study

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
