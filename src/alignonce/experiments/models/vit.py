"""A small vision transformer."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 4
_POSITION_DEVIATION = 0.02


class Block(nn.Module):
    """Self-attention, then a perceptron on each patch; a LayerNorm before each, a shortcut around each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, patches, width) to the same shape."""
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.contract(F.gelu(self.expand(self.norm2(x))))


class ViT(nn.Module):
    """Patches of 4x4 pixels with learnt positions, `depth` blocks, the mean over patches, one linear layer.

    Source: Dosovitskiy et al. 2021, arXiv 2010.11929; the mean in place of a class token, and the deviation
    of the positions, are those of Beyer et al. 2022, arXiv 2205.01580, and of the first's code.

    Args:
        image_shape: (channels, height, width), height and width multiples of 4.
        outputs: classes.
        depth: blocks.
        width: numbers for each patch.
        heads: attention heads in a block.

    Raises:
        ValueError: if the image cannot be divided into patches.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], outputs: int, depth: int, width: int, heads: int
    ) -> None:
        super().__init__()
        channels, height, image_width = image_shape
        if height % PATCH or image_width % PATCH:
            raise ValueError(
                f"model vit needs images whose sides are multiples of {PATCH}, got {height}x{image_width}"
            )
        self.patches = nn.Conv2d(channels, width, PATCH, stride=PATCH)
        self.positions = nn.Parameter(torch.empty(1, (height // PATCH) * (image_width // PATCH), width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to logits, (batch, outputs)."""
        patches = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(patches)).mean(dim=1))

    def draw_positions(self, generator: torch.Generator) -> None:
        """Draw the initial positions.

        Args:
            generator: where the numbers come from.
        """
        nn.init.normal_(self.positions, std=_POSITION_DEVIATION, generator=generator)
