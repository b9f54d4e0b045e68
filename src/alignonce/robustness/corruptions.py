"""Common corruptions of images, with severities 1 to 5 (:mod:`alignonce.robustness.severities`).

Random numbers are drawn on the CPU from a generator of the call's own, so that a seed gives the same
corruption on every device. They do not depend on the severity: a stronger corruption is the same one, more
of it.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from alignonce.robustness.checks import check_choice, check_images, optional_module
from alignonce.robustness.severities import CORRUPTIONS, SEVERITIES, SEVERITY_LEVELS

__all__ = ["corrupt"]

_ELASTIC_SMOOTHING = 0.1
"""Width of the Gaussian that smooths elastic displacements / side."""


def corrupt(images: Tensor, name: str, severity: int, seed: int = 0) -> Tensor:
    """Corrupt a batch of images.

    JPEG is kornia's differentiable model of the codec, close to a real codec and not equal to it.

    Args:
        images: pixels in [0, 1], shape (N, C, H, W) with 1 or 3 channels, sides of 4 pixels or more, any
            device and floating dtype.
        name: one of ``CORRUPTIONS``.
        severity: 1 to 5; ``SEVERITY_LEVELS`` says what they mean.
        seed: decides what is random; the same for every severity and device. Global random states are
            neither read nor changed.

    Returns:
        New pixels in [0, 1], of the images' shape, dtype and device.

    Raises:
        ValueError: if an argument is not as said above.
        ImportError: if kornia is not installed.

    Source: Hendrycks & Dietterich 2019, arXiv 1903.12261; Mu & Gilmer 2019, arXiv 1906.02337.
    """
    check_choice("corruption", name, CORRUPTIONS)
    check_choice("severity", severity, SEVERITIES)
    check_images(images)
    if images.shape[1] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, got {images.shape[1]}")
    if min(images.shape[2:]) < 4:
        raise ValueError(f"images must have sides of 4 pixels or more, got {tuple(images.shape[2:])}")
    # kornia's filters lose too much in half precision.
    pixels = images.detach().to(torch.promote_types(images.dtype, torch.float32))
    level = SEVERITY_LEVELS[name][SEVERITIES.index(severity)]
    generator = torch.Generator().manual_seed(seed)
    return _CORRUPT[name](pixels, level, generator).clamp(0, 1).to(images.dtype)


def _uniform(shape: tuple[int, ...], like: Tensor, generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64).to(like)


def _normal(like: Tensor, generator: Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


def _side(images: Tensor) -> int:
    return min(images.shape[2:])


def _gaussian_noise(images: Tensor, level: float, generator: Generator) -> Tensor:
    return images + level * _normal(images, generator)


def _shot_noise(images: Tensor, level: float, generator: Generator) -> Tensor:
    return torch.poisson(images.cpu() * level, generator=generator).to(images) / level


def _speckle_noise(images: Tensor, level: float, generator: Generator) -> Tensor:
    return images + images * level * _normal(images, generator)


def _impulse_noise(images: Tensor, level: float, generator: Generator) -> Tensor:
    shape = (images.shape[0], 1, *images.shape[2:])  # all channels of a pixel at once
    hit = _uniform(shape, images, generator) < level
    value = (_uniform(shape, images, generator) < 0.5).to(images)
    return torch.where(hit, value, images)


def _gaussian_blur(images: Tensor, level: float, generator: Generator) -> Tensor:
    sigma = level * _side(images)
    size = 2 * min(math.ceil(3 * sigma), _side(images) - 1) + 1  # a reflected border is no wider than that
    return _kornia("filters").gaussian_blur2d(images, (size, size), (sigma, sigma))


def _motion_blur(images: Tensor, level: float, generator: Generator) -> Tensor:
    # Kernels have odd sizes: a length in between is a mixture of its two neighbours, so that severities
    # differ on small images too.
    length = 1 + level * _side(images)
    shorter = 2 * math.floor((length - 1) / 2) + 1
    share = (length - shorter) / 2
    angles = 360 * _uniform((len(images),), images, generator)

    def blurred(size: int) -> Tensor:
        if size == 1:
            return images
        straight = torch.zeros_like(angles)
        return _kornia("filters").motion_blur(images, size, angles, straight, mode="bilinear")

    return (1 - share) * blurred(shorter) + share * blurred(shorter + 2)


def _brightness(images: Tensor, level: float, generator: Generator) -> Tensor:
    return _kornia("enhance").adjust_brightness(images, level)


def _contrast(images: Tensor, level: float, generator: Generator) -> Tensor:
    return _kornia("enhance").adjust_contrast_with_mean_subtraction(images, level)


def _jpeg(images: Tensor, level: float, generator: Generator) -> Tensor:
    quality = torch.tensor([level], dtype=images.dtype, device=images.device)
    colour = images.expand(-1, 3, -1, -1)
    coded: Tensor = _kornia("enhance").jpeg_codec_differentiable(colour, quality)
    return coded if images.shape[1] == 3 else coded.mean(1, keepdim=True)


def _pixelate(images: Tensor, level: float, generator: Generator) -> Tensor:
    size = 1 + level * _side(images)
    blocks = max(2, round(size))
    means = F.avg_pool2d(images, blocks, ceil_mode=True)
    coarse = F.interpolate(means, scale_factor=blocks)[..., : images.shape[2], : images.shape[3]]
    return torch.lerp(images, coarse, min(size - 1, 1))  # less than two pixels: a mixture, for small images


def _elastic(images: Tensor, level: float, generator: Generator) -> Tensor:
    height, width = images.shape[2:]
    sigma = _ELASTIC_SMOOTHING * _side(images)
    noise = _normal(images.new_empty(len(images), 2, height, width), generator)
    # White noise of deviation 1, smoothed with a Gaussian of deviation sigma, has 1 / (2 sqrt(pi) sigma).
    pixels = level * _side(images) * 2 * math.sqrt(math.pi) * sigma
    alpha = (2 * pixels / width, 2 * pixels / height)  # the sampling grid runs from -1 to 1
    size = 2 * math.ceil(3 * sigma) + 1
    warp = _kornia("geometry.transform").elastic_transform2d
    return warp(images, noise, (size, size), (sigma, sigma), alpha, padding_mode="border")


def _occlusion(images: Tensor, level: float, generator: Generator) -> Tensor:
    height, width = images.shape[2:]
    centre = _uniform((2, len(images), 1), images, generator)
    rows = torch.arange(height).to(images) + 0.5 - centre[0] * height
    columns = torch.arange(width).to(images) + 0.5 - centre[1] * width
    half = level * _side(images) / 2
    inside = (rows.abs() <= half)[:, :, None] & (columns.abs() <= half)[:, None, :]
    return images.masked_fill(inside[:, None], 0.5)


def _rotation(images: Tensor, level: float, generator: Generator) -> Tensor:
    sign = 1 - 2 * (_uniform((len(images),), images, generator) < 0.5).to(images)
    return _kornia("geometry.transform").rotate(images, level * sign, padding_mode="border")


def _translation(images: Tensor, level: float, generator: Generator) -> Tensor:
    angle = 2 * math.pi * _uniform((len(images),), images, generator)
    shift = level * _side(images) * torch.stack([angle.cos(), angle.sin()], dim=1)
    return _kornia("geometry.transform").translate(images, shift, padding_mode="border")


def _kornia(module: str) -> Any:
    return optional_module(f"kornia.{module}", "kornia")


_CORRUPT: dict[str, Callable[[Tensor, float, Generator], Tensor]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "speckle_noise": _speckle_noise,
    "impulse_noise": _impulse_noise,
    "gaussian_blur": _gaussian_blur,
    "motion_blur": _motion_blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "jpeg": _jpeg,
    "pixelate": _pixelate,
    "elastic": _elastic,
    "occlusion": _occlusion,
    "rotation": _rotation,
    "translation": _translation,
}
