"""Choosing the folder of a run: the one that it is finished in already, or a free one."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.files import is_locked
from alignonce.experiments.runs.folder import RunFolder
from alignonce.experiments.runs.records import Summary
from alignonce.experiments.tasks import Task


def find_run(parent: Path, config: RunConfig, task: Task | None = None) -> tuple[RunFolder, Summary | None]:
    """Choose the folder of a run among those of earlier runs.

    It is the one where this very run (same configuration, same data) is finished, if there is one; else the
    first that holds no finished run, and no unfinished one that could go on. So nothing is ever overwritten.

    Args:
        parent: the folder of run folders.
        config: the run.
        task: what it learns; None, where the data are not loaded, takes the configuration's word for them.

    Returns:
        `RULE-seedSEED`, or with `-2`, `-3`, ... after it; and how the run ended, None if it is not finished.
    """

    def suitable() -> Iterator[tuple[RunFolder, Summary | None]]:
        for folder in numbered_folders(parent, run_name(config)):
            summary = folder.finished()
            if summary is None:
                if folder.is_free_for(config):
                    yield folder, None
            # The source of data is a sentence for people, and may change while the data do not.
            elif folder.config() == config and (task is None or summary.data.same_as(task.facts)):
                yield folder, summary

    return next(suitable())


def free_folder(parent: Path, config: RunConfig) -> RunFolder:
    """Choose a folder for a run of its own: the first that is free, or where it was interrupted.

    Args:
        parent: the folder of run folders.
        config: the run.

    Returns:
        `DATA-MODEL-RULE-seedSEED`, or with `-2`, `-3`, ... after it.
    """
    data = re.sub(r"[^\w.-]+", "-", Path(config.data).stem) or "data"
    names = numbered_folders(parent, f"{data}-{config.model}-{run_name(config)}")
    return next(
        folder
        for folder in names
        if not folder.is_finished() and folder.is_free_for(config) and not is_locked(folder.path)
    )


def run_name(config: RunConfig) -> str:
    """Name the folder of a run.

    Args:
        config: the run.

    Returns:
        `RULE-seedSEED`, or `RULE-FORMAT-seedSEED` if feedback weights are not dense.
    """
    format = "" if config.format == "dense" else f"-{config.format}"
    return re.sub("[:/]", "-", f"{config.rule}{format}-seed{config.seed}")


def numbered_folders(parent: Path, name: str) -> Iterator[RunFolder]:
    """List the folders that a run may lie in.

    Args:
        parent: the folder of run folders.
        name: of the run.

    Yields:
        `NAME`, `NAME-2`, `NAME-3`, ..., without end.
    """
    yield RunFolder(parent / name)
    for number in itertools.count(2):
        yield RunFolder(parent / f"{name}-{number}")
