"""How large data sets are, without fetching them."""

from __future__ import annotations

from dataclasses import dataclass

from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.data.image_data import ImageData
from alignonce.experiments.data.known import KNOWN_DATA
from alignonce.experiments.studies.jobs import Source
from alignonce.experiments.tasks.task import SavedTask


@dataclass(frozen=True)
class DataShape:
    """Sizes of a data set; `image_shape` is (channels, height, width)."""

    train_images: int
    test_images: int
    image_shape: tuple[int, int, int]
    num_classes: int


def shape_of(config: RunConfig, source: Source) -> DataShape | SavedTask:
    """Find out the sizes of a run's data.

    Args:
        config: the run.
        source: where data come from.

    Returns:
        The sizes; of a task other than images, the task itself.

    Raises:
        ValueError: the data are not known, and not to be had.
    """
    known = KNOWN_DATA.get(config.data)
    if known is not None and config.task == "images":
        return DataShape(known.train_images, known.test_images, known.image_shape, known.num_classes)
    data = source.load(config)
    if not isinstance(data, ImageData):
        return data
    return DataShape(len(data.train_labels), len(data.test_labels), data.image_shape, data.num_classes)
