"""Residual CNNs: ResNet-18, with the stem for small images, and one that a CPU trains in minutes."""

import torch
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, and a shortcut around them (1x1 where the shape changes)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, height, width) to (batch, outputs, height / stride, width / stride)."""
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


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


class SmallResNet(nn.Module):
    """A residual CNN: a stem, three stages of `depth` blocks (`width`, 2 and 4 times as many channels)."""

    def __init__(self, image_shape: tuple[int, int, int], outputs: int, depth: int, width: int) -> None:
        super().__init__()
        channels, height, image_width = image_shape
        # Halving large images at once keeps a step affordable on a CPU; digits of 8 pixels are kept whole.
        stride = 2 if min(height, image_width) > 16 else 1
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        blocks: list[nn.Module] = []
        inputs = width
        for stage in range(3):
            for block in range(depth):
                outputs_of_block = width * 2**stage
                blocks.append(ResidualBlock(inputs, outputs_of_block, 2 if stage and not block else 1))
                inputs = outputs_of_block
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to logits, (batch, outputs)."""
        features = self.stem(x)
        # The same numbers in another order in memory: convolutions on a CPU are much faster in it. Under
        # vmap it is not available: networks lie side by side there, as channels of one.
        if not torch._C._are_functorch_transforms_active():
            features = features.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.head(self.blocks(features).mean(dim=(2, 3)))
        return logits
