"""What commands share: exit codes, and loading data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignonce.experiments.config.run import TrainingConfig
    from alignonce.experiments.data.data_facts import DataFacts
    from alignonce.experiments.data.image_data import ImageData
    from alignonce.experiments.tasks.loading import Learnable

OK, FOUND_TRANSPORT, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
INCOMPLETE = 1
"""Some of the measures, or some of the runs, failed."""


def load_images(name: str, cache: Path | None, hub: bool, limit: int | None) -> ImageData:
    """Load the data set that a command names, or the digits where Fashion-MNIST is not to be had.

    Args:
        name: the data set.
        cache: where downloaded data sets are kept; None is the default place.
        hub: whether one may be downloaded.
        limit: use only this many training and test images.

    Returns:
        The data.

    Raises:
        ValueError: they are not to be had, or the name is unknown.
    """
    from alignonce.experiments.data import DataUnavailable, load_data_or_digits

    try:
        return load_data_or_digits(name, cache=cache, hub=hub, limit=limit)
    except DataUnavailable as error:
        raise ValueError(f"data: {error}") from error


def load_data_of(config: TrainingConfig, cache: Path | None, hub: bool) -> Learnable:
    """Load what a command's run learns from, or the digits where Fashion-MNIST is not to be had.

    Args:
        config: the run.
        cache: where downloaded data sets are kept; None is the default place.
        hub: whether one may be downloaded.

    Returns:
        The data.

    Raises:
        ValueError: they are not to be had, or the name is unknown.
    """
    from alignonce.experiments.data import DataUnavailable
    from alignonce.experiments.tasks.loading import load_learnable

    try:
        return load_learnable(config, cache=cache, hub=hub, or_digits=True)
    except DataUnavailable as error:
        raise ValueError(f"data: {error}") from error


def data_line(facts: DataFacts, task: str = "images") -> str:
    """Say which data are used, and where they came from.

    Args:
        facts: about the data.
        task: what is learnt from them.

    Returns:
        One line.
    """
    examples = {"lm": f"windows of {facts.image_shape[2]} tokens", "tabular": "rows"}.get(task, "images")
    return (
        f"Data: {facts.name}, {facts.train_images:,} training and {facts.test_images:,} test {examples} "
        f"(source: {facts.source})"
    )
