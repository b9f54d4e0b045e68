"""The data sets that have a name of their own: what they hold, and where they are available."""

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownData:
    """One known data set, as its publishers describe it; for estimates before anything is loaded.

    Attributes:
        name: As `load_data` takes it.
        train_images: How many there are to learn from.
        test_images: How many there are to test on.
        image_shape: (C, H, W).
        num_classes: The number of classes.
        hub_id: "owner/name" or "owner/name/configuration" on a hub; None if it comes from elsewhere.
    """

    name: str
    train_images: int
    test_images: int
    image_shape: tuple[int, int, int]
    num_classes: int
    hub_id: str | None = None


_ALL = (
    KnownData("digits", 1438, 359, (1, 8, 8), 10),
    KnownData("fashion-mnist", 60_000, 10_000, (1, 28, 28), 10),
    # Further splits of these are not used: svhn's extra, stl10's unlabeled, tiny-imagenet's unlabelled test.
    KnownData("svhn", 73_257, 26_032, (3, 32, 32), 10, "ufldl-stanford/svhn/cropped_digits"),
    KnownData("cifar10", 50_000, 10_000, (3, 32, 32), 10, "uoft-cs/cifar10"),
    KnownData("cifar100", 50_000, 10_000, (3, 32, 32), 100, "uoft-cs/cifar100"),
    KnownData("stl10", 5_000, 8_000, (3, 96, 96), 10, "tanganke/stl10"),
    KnownData("tiny-imagenet", 100_000, 10_000, (3, 64, 64), 200, "zh-plus/tiny-imagenet"),
)
KNOWN_DATA: dict[str, KnownData] = {data.name: data for data in _ALL}
