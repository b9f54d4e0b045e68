"""A residual CNN that a CPU can train in minutes."""

import torch
from torch import Tensor, nn

from alignonce.experiments.models.residual_block import ResidualBlock


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
        # vmap it is not to be had: networks lie side by side there, as channels of one.
        if not torch._C._are_functorch_transforms_active():
            features = features.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.head(self.blocks(features).mean(dim=(2, 3)))
        return logits
