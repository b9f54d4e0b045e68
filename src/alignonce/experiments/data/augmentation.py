"""Training images, shifted and mirrored at random, so that a network sees none of them twice alike."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Augmentation = Literal["none", "shift", "shift-mirror"]

# Four pixels for images of 32, as is usual for CIFAR-10, and in proportion for others.
_PAD_SHARE = 1 / 8


def augment(images: Tensor, generator: torch.Generator, *, mirror: bool = True) -> Tensor:
    """Shift each image by up to an eighth of its sides, filling up with black, and mirror half of them.

    This is the usual random crop after zero padding, with a random horizontal flip.
    Source: He et al. 2016, arXiv 1512.03385, section 4.2.

    Args:
        images: uint8, (batch, channels, height, width), on any device.
        generator: on the CPU, so that every device sees the same images.
        mirror: whether to mirror; not for digits and letters, which mean nothing the other way round.

    Returns:
        New images, likewise; those given stay as they are.
    """
    count, _, height, width = images.shape
    down, right = round(height * _PAD_SHARE), round(width * _PAD_SHARE)
    top = torch.randint(2 * down + 1, (count, 1), generator=generator)
    left = torch.randint(2 * right + 1, (count, 1), generator=generator)
    mirrored = mirror * torch.randint(2, (count, 1), generator=generator)

    rows = top + torch.arange(height)
    columns = left + torch.where(mirrored == 1, torch.arange(width).flip(0), torch.arange(width))
    rows, columns = rows.to(images.device), columns.to(images.device)
    padded = F.pad(images, (right, right, down, down))
    which = torch.arange(count, device=images.device)[:, None, None]
    # Indices on both sides of the slice put the channels last.
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
