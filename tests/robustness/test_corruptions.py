"""Corruptions: known answers, seeds, severities, what they accept."""

import sys

import pytest
import torch
from torch import Tensor

from alignonce.robustness import CORRUPTIONS, SEVERITIES, SEVERITY_LEVELS, corrupt
from helpers.robust_models import digits, random_states

RANDOM = [n for n in CORRUPTIONS if n not in ("gaussian_blur", "brightness", "contrast", "jpeg", "pixelate")]


def pictures(channels: int, side: int) -> Tensor:
    if side == 8 and channels == 1:
        return digits()[0][:16]
    coarse = torch.rand(16, channels, 7, 7, generator=torch.Generator().manual_seed(3))
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 8), (1, 28), (3, 32), (3, 64)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_distance_from_the_clean_image_grows_with_severity(name: str, channels: int, side: int) -> None:
    images = pictures(channels, side)
    before = images.clone()
    corrupted = [corrupt(images, name, severity) for severity in SEVERITIES]
    for result in corrupted:
        assert result.shape == images.shape
        assert result.dtype == images.dtype
        assert 0 <= result.min() <= result.max() <= 1
    distances = [float((result - images).norm()) for result in corrupted]
    assert distances == sorted(distances)
    assert len(set(distances)) == 5
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_seed_decides_the_result_and_no_global_random_state_is_touched(name: str) -> None:
    images = pictures(1, 8)
    before = random_states()
    first = corrupt(images, name, 3, seed=5)
    assert random_states() == before
    torch.rand(3)
    assert torch.equal(corrupt(images, name, 3, seed=5), first)
    assert torch.equal(corrupt(images, name, 3, seed=6), first) == (name not in RANDOM)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_half_precision_is_computed_in_single(name: str) -> None:
    images = pictures(3, 8).to(torch.bfloat16)
    result = corrupt(images, name, 2)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, corrupt(images.float(), name, 2).to(torch.bfloat16))


def test_brightness_adds_its_level() -> None:
    images = torch.full((2, 3, 8, 8), 0.25)
    for severity in SEVERITIES:
        expected = 0.25 + SEVERITY_LEVELS["brightness"][severity - 1]
        assert corrupt(images, "brightness", severity) == pytest.approx(torch.full((2, 3, 8, 8), expected))


def test_contrast_shrinks_the_distance_from_each_images_own_mean() -> None:
    images = pictures(1, 8)
    mean = images.mean((1, 2, 3), keepdim=True)
    factor = SEVERITY_LEVELS["contrast"][3]
    torch.testing.assert_close(corrupt(images, "contrast", 4), mean + factor * (images - mean))


def test_gaussian_noise_has_its_deviation_and_impulse_noise_its_share() -> None:
    grey = torch.full((200, 1, 16, 16), 0.5)
    assert float(corrupt(grey, "gaussian_noise", 1).std()) == pytest.approx(0.08, rel=0.02)
    hit = corrupt(grey, "impulse_noise", 5)
    assert set(hit.unique().tolist()) == {0.0, 0.5, 1.0}
    assert float((hit != 0.5).float().mean()) == pytest.approx(0.27, rel=0.05)


def test_shot_noise_counts_photons() -> None:
    photons = corrupt(torch.full((50, 1, 8, 8), 0.6), "shot_noise", 5) * 3
    assert photons == pytest.approx(photons.round(), abs=1e-6)


def test_occlusion_puts_one_grey_square_of_at_most_its_size() -> None:
    result = corrupt(torch.ones(300, 3, 32, 32), "occlusion", 4)
    grey = (result == 0.5).all(1)
    assert torch.equal(grey, (result != 1).all(1))
    rows, columns = grey.any(2).sum(1), grey.any(1).sum(1)
    assert torch.equal(grey.sum((1, 2)), rows * columns)
    assert int(rows.max()) == int(columns.max()) == 16


def test_translation_and_rotation_move_content_by_their_level() -> None:
    images = torch.zeros(20, 1, 33, 33)
    images[:, :, 16, 16] = 1
    moved = corrupt(images, "translation", 5)
    grid = torch.stack(torch.meshgrid(*[torch.arange(33.0)] * 2, indexing="ij"))
    centre = (moved * grid).sum((2, 3)) / moved.sum((2, 3))
    assert (centre - 16).norm(dim=1) == pytest.approx(torch.full((20,), 0.22 * 33), rel=0.02)
    bar = torch.zeros(20, 1, 33, 33)
    bar[:, :, 16, 20:30] = 1
    turned = corrupt(bar, "rotation", 3)
    centre = (turned * grid).sum((2, 3)) / turned.sum((2, 3)) - 16
    angles = torch.rad2deg(torch.atan2(centre[:, 0], centre[:, 1]))
    assert angles.abs() == pytest.approx(torch.full((20,), 18.0), abs=0.5)
    assert set(angles.sign().tolist()) == {-1.0, 1.0}


def test_blurs_and_pixelation_keep_a_flat_image_flat() -> None:
    flat = torch.full((2, 3, 12, 20), 0.3)
    for name in ("gaussian_blur", "motion_blur", "pixelate", "jpeg", "elastic", "rotation", "translation"):
        torch.testing.assert_close(
            corrupt(flat, name, 5), flat, atol=0.03 if name == "jpeg" else 1e-5, rtol=0
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.rand(2, 1, 8, 8), "snow", 1), "unknown corruption 'snow'; there are gaussian_noise, "),
        ((torch.rand(2, 1, 8, 8), "jpeg", 6), "unknown severity 6; there are 1, 2, 3, 4, 5"),
        ((torch.rand(2, 1, 8, 8), "jpeg", 0), "unknown severity 0"),
        ((torch.rand(2, 1, 8, 8) + 1, "jpeg", 1), r"raw pixels in \[0, 1\]"),
        ((torch.rand(2, 1, 8, 8) * torch.nan, "jpeg", 1), r"raw pixels in \[0, 1\]"),
        ((torch.rand(0, 1, 8, 8), "jpeg", 1), "at least one image"),
        ((torch.rand(1, 8, 8), "jpeg", 1), r"shape \(N, C, H, W\)"),
        ((torch.zeros(1, 1, 8, 8, dtype=torch.uint8), "jpeg", 1), "floating point"),
        ((torch.rand(2, 2, 8, 8), "jpeg", 1), "1 or 3 channels"),
        ((torch.rand(2, 1, 3, 8), "jpeg", 1), "4 pixels"),
    ],
)
def test_bad_input_is_refused(arguments: tuple[Tensor, str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        corrupt(*arguments)


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia.enhance", None)
    with pytest.raises(ImportError, match=r"kornia.*pip install alignonce\[robustness\]"):
        corrupt(torch.rand(1, 1, 8, 8), "jpeg", 1)
