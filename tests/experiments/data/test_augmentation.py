import pytest
import torch
from torch import Tensor

from alignonce.experiments.data.augmentation import augment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, channels: int, height: int, width: int) -> Tensor:
    # From 1: black is what fills up.
    return torch.randint(1, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator(9))


def variants(image: Tensor, down: int, right: int) -> set[bytes]:
    """Every shifted and mirrored form of one image, made by slicing."""
    channels, height, width = image.shape
    padded = torch.zeros(channels, height + 2 * down, width + 2 * right, dtype=torch.uint8)
    padded[:, down : down + height, right : right + width] = image
    crops = [
        padded[:, y : y + height, x : x + width] for y in range(2 * down + 1) for x in range(2 * right + 1)
    ]
    return {form.numpy().tobytes() for crop in crops for form in (crop, crop.flip(2))}


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 16, 24)])
def test_each_image_is_a_shifted_and_mirrored_form_of_itself(shape):
    images = pictures(20, *shape)
    result = augment(images, generator())
    assert (result.shape, result.dtype) == (images.shape, torch.uint8)
    for image, changed in zip(images, result, strict=True):
        assert changed.contiguous().numpy().tobytes() in variants(image, shape[1] // 8, shape[2] // 8)


def test_all_shifts_and_both_mirrorings_occur_about_equally_often():
    image = pictures(1, 1, 8, 8)
    result = augment(image.expand(18_000, -1, -1, -1), generator())
    _, counts = torch.unique(result.flatten(1), dim=0, return_counts=True)
    assert len(counts) == 18  # 3 x 3 shifts, mirrored or not
    assert counts.min() > 850
    assert counts.max() < 1150


def test_the_generator_alone_decides_and_the_images_given_stay():
    images = pictures(50, 3, 32, 32)
    before = images.clone()
    first, again, other = (augment(images, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(images, before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_nothing_is_mirrored_if_not_wanted():
    image = pictures(1, 1, 8, 8)
    result = augment(image.expand(500, -1, -1, -1), generator(), mirror=False)
    assert len(torch.unique(result.flatten(1), dim=0)) == 9
