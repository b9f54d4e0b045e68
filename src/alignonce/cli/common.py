"""What commands share: exit codes, and loading data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from alignonce.experiments.data.source import DataSource

if TYPE_CHECKING:
    from alignonce.experiments.config.run import TrainingConfig
    from alignonce.experiments.tasks import Task

OK, FOUND_TRANSPORT, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
INCOMPLETE = 1
"""Some of the measures, or some of the runs, failed."""


@dataclass(frozen=True)
class SourceOptions:
    """Where data come from, as the command line has it."""

    cache: Path | None = None
    """Folder for downloaded data sets. None: $ALIGNONCE_DATA, or else ~/.cache/alignonce."""
    hub: bool = True
    """Download a data set that is not on this machine."""

    def source(self, *, or_digits: bool = False) -> DataSource:
        """Make the value that everything below takes.

        Args:
            or_digits: whether the digits may stand in for Fashion-MNIST.

        Returns:
            The source.
        """
        return DataSource(self.cache, self.hub, or_digits)


Source = Annotated[SourceOptions, tyro.conf.arg(name="")]
"""The options of a command that loads data."""
FROM_ANYWHERE = SourceOptions()


def load_data_of(config: TrainingConfig, options: SourceOptions) -> Task:
    """Load what a command's run learns, or the digits where Fashion-MNIST is unavailable.

    Args:
        config: the run.
        options: where data come from.

    Returns:
        The task.

    Raises:
        ValueError: the data are unavailable, or the name is unknown.
    """
    from alignonce.experiments.tasks import load_task

    return load_task(config, options.source(or_digits=True))


def data_line(task: Task) -> str:
    """Say which data are used, and where they came from.

    Args:
        task: what is learnt.

    Returns:
        One line.
    """
    facts = task.facts
    return (
        f"Data: {facts.name}, {facts.train_examples:,} training and {facts.test_examples:,} test "
        f"{task.examples} (source: {facts.source})"
    )
