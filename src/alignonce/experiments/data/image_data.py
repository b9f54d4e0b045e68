"""What every source of labelled images becomes: `ImageData`, checked once, here."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

SPLIT_SEED = 0
"""Seed of every split and selection made here: the same data give the same split, always."""

_TEST_SHARE = 0.2


class DataUnavailable(RuntimeError):
    """No source gave the data; the message lists each source and why it failed."""


# No generated __eq__: comparing tensors gives a tensor, so it could only raise.
@dataclass(frozen=True, eq=False)
class ImageData:
    """Labelled images in memory, in a training and a test part; checked when made.

    Attributes:
        name: "fashion-mnist", "digits", or the file's, folder's or hub data set's name.
        source: Where the data came from, as one phrase for people.
        train_images: (N, C, H, W), uint8, C 1 (greyscale) or 3 (RGB).
        train_labels: (N,), int64, in 0..num_classes-1.
        test_images: (M, C, H, W), uint8.
        test_labels: (M,), int64.
        classes: The class names; a label is an index into them.

    Raises:
        ValueError: The parts do not fit together as described.
    """

    name: str
    source: str
    train_images: Tensor = field(repr=False)
    train_labels: Tensor = field(repr=False)
    test_images: Tensor = field(repr=False)
    test_labels: Tensor = field(repr=False)
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        self._check_part("train", self.train_images, self.train_labels)
        self._check_part("test", self.test_images, self.test_labels)
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise ValueError(
                f"{self.source}: training and test images must have one shape (C, H, W), "
                f"got {tuple(self.train_images.shape[1:])} and {tuple(self.test_images.shape[1:])}"
            )

    def _check_part(self, part: str, images: Tensor, labels: Tensor) -> None:
        where = f"{self.source}: {part}"
        shape = tuple(images.shape)
        if images.dtype != torch.uint8 or images.ndim != 4 or shape[1] not in (1, 3) or 0 in shape:
            raise ValueError(
                f"{where}_images must be uint8 of shape (N, C, H, W) with C 1 or 3 and no size 0, "
                f"got {images.dtype} of shape {shape}"
            )
        if labels.dtype != torch.int64 or labels.ndim != 1:
            raise ValueError(
                f"{where}_labels must be int64 of shape (N,), "
                f"got {labels.dtype} of shape {tuple(labels.shape)}"
            )
        if len(images) != len(labels):
            raise ValueError(
                f"{where} must have one label per image, got {len(images)} images, {len(labels)} labels"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.num_classes:
            raise ValueError(
                f"{where}_labels must be in 0..{self.num_classes - 1} ({self.num_classes} classes), "
                f"got {low if low < 0 else high}"
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """One image's (C, H, W)."""
        _, channels, height, width = self.train_images.shape
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @cached_property
    def mean(self) -> tuple[float, ...]:
        """Mean of the training pixels, per channel, pixels scaled to [0, 1]."""
        return tuple(mean for mean, _ in self._channel_statistics)

    @cached_property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the training pixels, per channel, in [0, 1]; 0 for a constant channel."""
        return tuple(std for _, std in self._channel_statistics)

    @cached_property
    def _channel_statistics(self) -> list[tuple[float, float]]:
        # Counting the 256 values is exact and needs no float copy of the images.
        values = torch.arange(256, dtype=torch.float64) / 255
        statistics = []
        for channel in range(self.image_shape[0]):
            counts = torch.bincount(self.train_images[:, channel].flatten(), minlength=256)
            shares = counts.double() / counts.sum()
            mean = (shares * values).sum()
            statistics.append((mean.item(), (shares * (values - mean) ** 2).sum().sqrt().item()))
        return statistics

    def limited(self, limit: int) -> "ImageData":
        """Return the first `limit` training and test examples of a seeded, class-balanced selection.

        Args:
            limit: How many examples of each part, at least 1; parts that are smaller stay whole.

        Returns:
            The smaller data; a smaller limit selects a prefix of what a larger one selects.

        Raises:
            ValueError: The limit is not a whole number of at least 1.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ValueError(f"limit must be a whole number of at least 1, or None for all, got {limit!r}")
        train = _balanced_order(self.train_labels)[:limit]
        test = _balanced_order(self.test_labels)[:limit]
        return replace(
            self,
            train_images=self.train_images[train],
            train_labels=self.train_labels[train],
            test_images=self.test_images[test],
            test_labels=self.test_labels[test],
        )


def _balanced_order(labels: Tensor) -> Tensor:
    """All indices, ordered so that every prefix holds the classes as evenly as it can."""
    rng = np.random.default_rng(SPLIT_SEED)
    values = labels.numpy()
    shuffled = rng.permutation(len(values))
    turn = np.empty(len(values), dtype=np.int64)
    for label in np.unique(values):
        members = shuffled[values[shuffled] == label]
        turn[members] = np.arange(len(members))
    # Within one turn the classes come in random order, so that a tiny limit favours none.
    return torch.from_numpy(shuffled[np.argsort(turn[shuffled], kind="stable")])


def stratified_split(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split examples into training (80%) and test (20%), class by class, seeded.

    Args:
        labels: (N,), the class of each example.

    Returns:
        The indices of the training and of the test examples, ascending.

    Raises:
        ValueError: A class has fewer than two examples.
    """
    rng = np.random.default_rng(SPLIT_SEED)
    in_test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < 2:
            raise ValueError(
                f"a class needs at least 2 examples to be split into training and test, class {label} has 1"
            )
        in_test[members[: max(1, round(_TEST_SHARE * len(members)))]] = True
    return np.flatnonzero(~in_test), np.flatnonzero(in_test)


def from_arrays(
    name: str,
    source: str,
    train: tuple[NDArray[Any], NDArray[Any]],
    test: tuple[NDArray[Any], NDArray[Any]],
    classes: tuple[str, ...] | None = None,
) -> ImageData:
    """Make `ImageData` of NumPy arrays as they are commonly stored.

    Args:
        name: The data's name.
        source: Where they came from, for people and for error messages.
        train: Images, uint8, (N, H, W), (N, H, W, C) or (N, C, H, W), and labels, whole numbers,
            (N,) or (N, 1).
        test: The same for the test part.
        classes: The class names; without them, the numbers 0..largest label.

    Returns:
        The data.

    Raises:
        ValueError: An array is of another type or shape, or the parts do not fit together.
    """
    train_images = _channels_first(train[0], f"{source}: train_images")
    test_images = _channels_first(test[0], f"{source}: test_images")
    train_labels = _whole_numbers(train[1], f"{source}: train_labels")
    test_labels = _whole_numbers(test[1], f"{source}: test_labels")
    if classes is None:
        count = 1 + int(max(train_labels.max(initial=0), test_labels.max(initial=0)))
        # A stray huge label must not become a huge number of classes.
        if count > len(train_labels):
            raise ValueError(
                f"{source}: labels must be 0..K-1 with K at most the number of training images, "
                f"got label {count - 1} with {len(train_labels)} training images"
            )
        classes = tuple(str(label) for label in range(count))
    return ImageData(
        name,
        source,
        torch.from_numpy(train_images),
        torch.from_numpy(train_labels),
        torch.from_numpy(test_images),
        torch.from_numpy(test_labels),
        classes,
    )


def _channels_first(images: NDArray[Any], what: str) -> NDArray[np.uint8]:
    if images.dtype != np.uint8:
        raise ValueError(f"{what} must be uint8 (0..255), got {images.dtype}")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4:
        first, last = images.shape[1] in (1, 3), images.shape[3] in (1, 3)
        if first == last:
            raise ValueError(
                f"{what} must be (N, C, H, W) or (N, H, W, C), C 1 or 3 on one side only, got {images.shape}"
            )
        if last:
            images = images.transpose(0, 3, 1, 2)
    else:
        raise ValueError(f"{what} must be (N, H, W), (N, H, W, C) or (N, C, H, W), got shape {images.shape}")
    return np.require(images, requirements=["C", "W"])


def _whole_numbers(labels: NDArray[Any], what: str) -> NDArray[np.int64]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise ValueError(
            f"{what} must be whole numbers of shape (N,), got {labels.dtype} of shape {labels.shape}"
        )
    return np.array(labels, dtype=np.int64)


def stack_images(images: Iterable[tuple[str, "Image.Image"]]) -> NDArray[np.uint8]:
    """Stack pictures of one size; greyscale ones become RGB if any of them is RGB.

    Args:
        images: For each picture, what to call it in an error message, and the picture.

    Returns:
        (N, C, H, W), C 1 if all are greyscale, else 3.

    Raises:
        ValueError: Two sizes differ, or a picture is neither greyscale nor RGB, or there is none.
    """
    arrays: list[NDArray[np.uint8]] = []
    first, size = "", (0, 0)
    for where, image in images:
        if not arrays:
            first, size = where, image.size
        if image.size != size:
            raise ValueError(
                f"{where} is {image.width}x{image.height} pixels, but {first} is {size[0]}x{size[1]}: "
                "all images must have one size"
            )
        if image.mode in ("1", "L"):
            arrays.append(np.asarray(image.convert("L")))
        elif image.mode == "RGB" or (image.mode == "P" and "transparency" not in image.info):
            arrays.append(np.asarray(image.convert("RGB")))
        else:
            raise ValueError(
                f"{where} must be 8-bit greyscale or RGB without transparency, got mode {image.mode}"
            )
    if not arrays:
        raise ValueError("there are no images")
    if all(array.ndim == 2 for array in arrays):
        return np.stack(arrays)[:, None]
    in_colour = [array if array.ndim == 3 else np.repeat(array[:, :, None], 3, axis=2) for array in arrays]
    return np.ascontiguousarray(np.stack(in_colour).transpose(0, 3, 1, 2))
