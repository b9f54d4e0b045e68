"""Training a run into its folder, or reading it from there."""

from __future__ import annotations

from typing import TypeVar

from rich.console import Console

from alignonce.diagnostics import Tracker
from alignonce.experiments.bars import RunBars
from alignonce.experiments.config.run import RunConfig, TrainingConfig
from alignonce.experiments.files import ensure_writable, locked
from alignonce.experiments.runs.folder import RunFolder, RunRecord
from alignonce.experiments.tasks import Task
from alignonce.experiments.training.checkpoints import remove_checkpoints
from alignonce.experiments.training.engine import Engine
from alignonce.experiments.training.live import live_metrics
from alignonce.experiments.training.loop import train
from alignonce.experiments.training.resuming import SaveEvery


def train_and_save(
    config: RunConfig,
    task: Task,
    folder: RunFolder,
    console: Console | None = None,
    tracker: Tracker | None = None,
    *,
    engine: Engine | None = None,
    every: SaveEvery | None = None,
) -> RunRecord:
    """Do one run, and save it in a folder that holds no finished run; an unfinished one goes on.

    Args:
        config: the run.
        task: what to learn.
        folder: where to save it.
        console: where to show progress; None shows none.
        tracker: takes measures during training, which are saved with the run.
        engine: what to compute with; None sets it up as configured. Its processes all call this.
        every: how often to write a resume point; None: every minute.

    Returns:
        The saved run.
    """
    config = with_actual_data(config, task)
    with RunBars(console, 1) as bars:
        return train_into(folder, config, task, bars, tracker, engine=engine, every=every)


def train_into(
    folder: RunFolder,
    config: RunConfig,
    task: Task,
    bars: RunBars,
    tracker: Tracker | None = None,
    *,
    engine: Engine | None = None,
    every: SaveEvery | None = None,
) -> RunRecord:
    """Do one run as `train_and_save` does, with bars that several runs may share.

    Args:
        folder: where to save it.
        config: the run, as `with_actual_data` gives it.
        task: what to learn.
        bars: where to show progress.
        tracker: takes measures during training.
        engine: what to compute with; None sets it up as configured.
        every: how often to write a resume point; None: every minute.

    Returns:
        The saved run.
    """
    engine = engine or Engine(config)
    if not engine.is_first:
        train(
            config, task, tracker=tracker, engine=engine, resume=folder.resume_points(config, task, tracker)
        )
        engine.wait_for_all()  # until the first process has saved the run
        return folder.load()
    ensure_writable(folder.path)
    with locked(folder.path):
        folder.prepare()
        resume = folder.resume_points(config, task, tracker, every)
        if not resume.exist():
            remove_checkpoints(folder.path)
        with live_metrics(folder.path) as metrics:
            result = train(
                config, task, bars.follow(config), on_checkpoint=folder.save_checkpoint,
                tracker=tracker, metrics=metrics, engine=engine, resume=resume,
            )  # fmt: skip
        record = folder.save(config, task, result)
        if result.status != "interrupted":
            resume.remove()
    engine.wait_for_all()
    return record


_Config = TypeVar("_Config", bound=TrainingConfig)


def with_actual_data(config: _Config, task: Task) -> _Config:
    """Name the data that are used: where they fell back to the digits, a saved run must not name others.

    Args:
        config: as it was asked for.
        task: with the data as they were loaded.

    Returns:
        The configuration to save.
    """
    if config.data == "fashion-mnist" and task.facts.name == "digits":
        return config.model_copy(update={"data": "digits"})
    return config
