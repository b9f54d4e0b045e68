"""The images that runs are measured on: the same for each of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from alignonce.experiments.config.seeds import derived_seed
from alignonce.experiments.data.image_data import DataUnavailable, ImageData
from alignonce.experiments.data.loading import load_data
from alignonce.experiments.training.loop import as_pixels

Batch = tuple[Tensor, Tensor]
_PART = 1000


class ExampleSets:
    """Class-balanced selections of the data that the runs learnt from, as pixels in [0, 1] on the device.

    Args:
        load: gives the data; called once, when they are first needed.
        device: where to compute.
    """

    def __init__(self, load: Callable[[], ImageData], device: torch.device) -> None:
        self._load = load
        self.device = device

    @cached_property
    def data(self) -> ImageData:
        """All images."""
        return self._load()

    def train(self, count: int) -> Batch:
        """Select training images.

        Args:
            count: how many, or all if there are fewer.

        Returns:
            Images (n, channels, height, width) and labels (n,).
        """
        some = self.data.limited(count)
        return as_pixels(some.train_images).to(self.device), some.train_labels.to(self.device)

    def test(self, count: int) -> Batch:
        """Select test images.

        Args:
            count: how many, or all if there are fewer.

        Returns:
            As `train`.
        """
        some = self.data.limited(count)
        return as_pixels(some.test_images).to(self.device), some.test_labels.to(self.device)

    def unfamiliar(self, count: int, seed: int) -> tuple[str, Batch]:
        """Make images of another distribution: scikit-learn's digits, enlarged to the size of the data.

        Args:
            count: how many at most.
            seed: of uniform noise, which is taken where the data are the digits themselves or these are not
                available.

        Returns:
            What they are, `digits` or `noise`, and the images with labels that mean nothing.
        """
        channels, height, width = self.data.image_shape
        name, pixels = "noise", None
        if self.data.name != "digits":
            try:
                digits = load_data("digits")
            except DataUnavailable:
                pass
            else:
                name = "digits"
                small = as_pixels(torch.cat([digits.test_images, digits.train_images])[:count])
                pixels = F.interpolate(small, (height, width), mode="bilinear").expand(-1, channels, -1, -1)
        if pixels is None:
            generator = torch.Generator().manual_seed(derived_seed(seed, "noise"))
            pixels = torch.rand(min(count, 1000), channels, height, width, generator=generator)
        images = pixels.contiguous().to(self.device)
        return name, (images, torch.zeros(len(images), dtype=torch.int64, device=self.device))


def in_parts(batch: Batch) -> list[Batch]:
    """Divide many images into batches that fit into memory.

    Args:
        batch: images and labels.

    Returns:
        The same, in batches of at most 1000.
    """
    return list(zip(batch[0].split(_PART), batch[1].split(_PART), strict=True))
