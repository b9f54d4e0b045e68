"""How large data sets are, without fetching them."""

from __future__ import annotations

from dataclasses import dataclass

from alignonce.experiments.config import RunConfig
from alignonce.experiments.data.known import KNOWN_DATA
from alignonce.experiments.studies.jobs import Source


@dataclass(frozen=True)
class DataShape:
    """Sizes of a data set; `image_shape` is (channels, height, width)."""

    train_images: int
    test_images: int
    image_shape: tuple[int, int, int]
    num_classes: int


def shape_of(config: RunConfig, source: Source) -> DataShape:
    """Find out the sizes of a run's data.

    Args:
        config: the run.
        source: where data come from.

    Returns:
        The sizes.

    Raises:
        ValueError: the data are not known, and not to be had.
    """
    known = KNOWN_DATA.get(config.data)
    if known is not None:
        return DataShape(known.train_images, known.test_images, known.image_shape, known.num_classes)
    data = source.load_images(config)
    return DataShape(len(data.train_labels), len(data.test_labels), data.image_shape, data.num_classes)
