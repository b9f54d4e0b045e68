"""What commands share: exit codes, and loading data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignonce.experiments.data.image_data import ImageData

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


def data_line(data: ImageData) -> str:
    """Say which data are used, and where they came from.

    Args:
        data: the data.

    Returns:
        One line.
    """
    return (
        f"Data: {data.name}, {len(data.train_labels):,} training and {len(data.test_labels):,} test images "
        f"(source: {data.source})"
    )
