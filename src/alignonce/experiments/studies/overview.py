"""A study at a glance: the score of each rule in each cell."""

from __future__ import annotations

from statistics import fmean

from rich.box import SIMPLE_HEAD
from rich.table import Table

from alignonce.experiments.scores import final_score
from alignonce.experiments.studies.folder import StudyFolder
from alignonce.experiments.studies.study import Study


def cell_table(folder: StudyFolder, study: Study) -> Table:
    """Tabulate a study as far as it is done.

    Args:
        folder: its folder.
        study: the study.

    Returns:
        A line for each cell, a column for each rule: the mean score over the seeds done,
        accuracy in percent, `x` for each diverged run, `.` for each that is still to be done.
    """
    states = folder.states(study)
    rules = list(dict.fromkeys(run.config.rule for run, _ in states))
    cells = list(dict.fromkeys(run.cell for run, _ in states))
    table = Table(
        caption="mean over finished seeds of test accuracy (%), or of what else the task is scored by; "
        "x: a diverged run; .: one still to be done",
        caption_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column("part and setting")
    for rule in rules:
        table.add_column(rule, justify="right")
    for cell in cells:
        line = []
        for rule in rules:
            mine = [(run, state) for run, state in states if run.cell == cell and run.config.rule == rule]
            finals = [final_score(run.folder.summary()) for run, state in mine if state == "done"]
            known = [value for _, value in finals if value is not None]
            decimals = finals[0][0].decimals if finals else 0
            marks = "".join({"diverged": "x", "done": ""}.get(state, ".") for _, state in mine)
            line.append(" ".join(filter(None, (f"{fmean(known):.{decimals}f}" if known else "", marks))))
        table.add_row(" ".join(filter(None, (cell.part, cell.name))), *line)
    return table
