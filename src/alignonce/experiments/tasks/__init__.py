"""What can be learnt: each task brings its data, its network, its batches, its loss, its tests and its score.

A task of your own is a class in a file of its own, a line in `TASKS` below, and its defaults in
`config.task_specs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from alignonce.experiments.config.run import TrainingConfig
from alignonce.experiments.config.task_specs import TaskName
from alignonce.experiments.data.image_data import DataUnavailable
from alignonce.experiments.data.source import DataSource
from alignonce.experiments.tasks.images import ImageClassification
from alignonce.experiments.tasks.language import LanguageModelling
from alignonce.experiments.tasks.tabular import Tabular
from alignonce.experiments.tasks.task import Forward, Task

__all__ = ["TASKS", "Forward", "ImageClassification", "Task", "load_task"]

TASKS: Mapping[TaskName, type[Task]] = MappingProxyType(
    {"images": ImageClassification, "lm": LanguageModelling, "tabular": Tabular}
)


def load_task(config: TrainingConfig, source: DataSource | None = None) -> Task:
    """Load what a run learns.

    Args:
        config: names the task and its data.
        source: where data come from; None is `DataSource()`.

    Returns:
        The task, with its data on the CPU.

    Raises:
        ValueError: the data are unavailable, or not usable.
    """
    try:
        return TASKS[config.task].load(config, DataSource() if source is None else source)
    except DataUnavailable as error:
        raise ValueError(f"data: {error}") from error
