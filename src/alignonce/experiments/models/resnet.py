"""ResNet-18, with the stem that is used for small images."""

import torch
from torch import Tensor, nn

from alignonce.experiments.models.residual_block import ResidualBlock

_BLOCKS_PER_STAGE = 2
_LARGEST_SMALL_IMAGE = 64


class ResNet18(nn.Module):
    """A stem, four stages of two residual blocks, one linear layer.

    Images of up to 64 pixels pass a 3x3 stem that keeps their size, as in the paper's networks for CIFAR-10;
    larger ones the 7x7 stem for ImageNet, which divides their size by four.

    Source: He et al. 2016, arXiv 1512.03385.

    Args:
        image_shape: (channels, height, width).
        outputs: classes.
        width: channels of the first stage (64 in the paper); later ones have 2, 4 and 8 times as many.
    """

    def __init__(self, image_shape: tuple[int, int, int], outputs: int, width: int) -> None:
        super().__init__()
        small = max(image_shape[1:]) <= _LARGEST_SMALL_IMAGE
        kernel, stride = (3, 1) if small else (7, 2)
        self.stem = nn.Sequential(
            nn.Conv2d(image_shape[0], width, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1),
        )
        blocks: list[nn.Module] = []
        inputs = width
        for stage in range(4):
            for block in range(_BLOCKS_PER_STAGE):
                channels = width * 2**stage
                blocks.append(ResidualBlock(inputs, channels, 2 if stage and not block else 1))
                inputs = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to logits, (batch, outputs)."""
        features = self.blocks(self.stem(x.contiguous(memory_format=torch.channels_last)))
        return self.head(features.mean(dim=(2, 3)))
