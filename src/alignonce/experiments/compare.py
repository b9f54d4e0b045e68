"""Comparing learning rules: the same network, from the same weights, on the same batches, rule by rule."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from alignonce.experiments.bars import RunBars
from alignonce.experiments.config.devices import pick_device
from alignonce.experiments.config.run import CompareConfig
from alignonce.experiments.figures.comparison import comparison_figure
from alignonce.experiments.figures.style import rule_label, save_figure
from alignonce.experiments.files import ensure_writable, write_atomically
from alignonce.experiments.runs.finding import find_run
from alignonce.experiments.runs.folder import RunRecord
from alignonce.experiments.runs.scores import ACCURACY, score_of
from alignonce.experiments.runs.train_into import train_into, with_actual_data
from alignonce.experiments.tasks import Task

CSV_COLUMNS = (
    "rule", "seed", "status", "test_accuracy", "test_loss", "train_accuracy", "train_loss",
    "mean_angle_deg", "step", "total_steps", "seconds", "folder", "test_bits_per_byte", "test_r2",
)  # fmt: skip

_CAPTION = "{train}: mean over the last epoch; angle: mean over layers, at the end"


@dataclass(frozen=True)
class Comparison:
    """A comparison on disk: its runs, in order, and the files about all of them.

    `skipped` counts the runs that an earlier comparison had finished; `interrupted`: by Ctrl-C.
    """

    runs: list[RunRecord]
    files: list[Path]
    skipped: int
    interrupted: bool


def compare(config: CompareConfig, task: Task, out: Path, console: Console | None = None) -> Comparison:
    """Train under each rule and seed, and write runs, `compare.csv`, `compare.png` and `compare.pdf`.

    A run that `out` already holds finished, with the same configuration and data, is not done again; an
    unfinished one is; a finished run of another configuration stays, and the new one gets a numbered folder.
    A run that diverges does not stop the others. Ctrl-C stops all, and keeps what was measured.

    Args:
        config: what to compare.
        task: what to learn.
        out: the folder for all results; made if missing.
        console: where to show progress; None shows none.

    Returns:
        The runs and the files.

    Raises:
        KeyboardInterrupt: Ctrl-C came before anything was measured.
    """
    ensure_writable(out)
    pick_device(config.device)
    config = with_actual_data(config, task)
    write_atomically(out / "compare.json", config.model_dump_json(indent=2) + "\n")
    plan = [(run, *find_run(out, run, task)) for run in config.runs()]
    records: list[RunRecord] = []
    skipped, interrupted = 0, False
    with RunBars(console, len(plan)) as bars:
        try:
            for run, folder, summary in plan:
                if summary is not None:
                    records.append(folder.load())
                    skipped += 1
                else:
                    records.append(train_into(folder, run, task, bars))
                bars.finish_run()
                if records[-1].summary.status == "interrupted":
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            # Between runs, or in one whose measurements are saved by now.
            if not records:
                raise
            interrupted = True
    write_atomically(out / "compare.csv", lambda path: _write_csv(path, records, out))
    figures = save_figure(comparison_figure(records), out / "compare.png")
    return Comparison(records, [out / "compare.csv", *figures], skipped, interrupted)


def comparison_table(runs: Sequence[RunRecord]) -> Table:
    """Tabulate runs, one line per rule; scores are means over the seeds, with their sample deviation.

    Args:
        runs: the runs.

    Returns:
        The table, to be printed by rich.
    """
    rules = list(dict.fromkeys(run.config.rule for run in runs))
    several = len({run.config.seed for run in runs}) > 1
    seeds = "means over seeds ± sample deviation; " if several else ""
    score = score_of(runs[0])
    train = "train acc." if score is ACCURACY else "train loss"
    caption = seeds + _CAPTION.format(train=train)
    table = Table(caption=caption, caption_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("rule", no_wrap=True)
    for column in (score.column, train, "angle W, B", "seconds"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("status")
    for rule in rules:
        group = [run for run in runs if run.config.rule == rule]
        good = [run.summary for run in group if run.summary.status != "diverged"]
        table.add_row(
            rule_label(rule),
            score.text([s.value(score) for s in good]),
            ACCURACY.text([s.train_accuracy for s in good])
            if score is ACCURACY
            else _mean_text([s.train_loss for s in good], "{:.3f}"),
            _mean_text([s.mean_angle_deg for s in good], "{:.1f}°"),
            _mean_text([run.summary.seconds for run in group], "{:.1f}"),
            _status_text(group),
        )
    return table


def _mean_text(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return form.format(fmean(known)) if known else "-"


def _status_text(group: Sequence[RunRecord]) -> str:
    seeds = len(group) > 1
    troubles = [
        f"{run.summary.status} at step {run.summary.step}" + (f" (seed {run.config.seed})" if seeds else "")
        for run in group
        if run.summary.status != "done"
    ]
    return ", ".join(troubles) or "done"


def _write_csv(path: Path, runs: Sequence[RunRecord], out: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for run in runs:
            facts = {"rule": run.config.rule, "seed": run.config.seed, "folder": run.folder.relative_to(out)}
            writer.writerow(run.summary.model_dump() | facts)
