"""The VGG networks with BatchNorm, in the form that is used for small images."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

# Convolutions in each of five stages, by the number of weight layers in the paper.
_STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_CHANNELS = (1, 2, 4, 8, 8)


class VGG(nn.Module):
    """Five stages of 3x3 convolutions with BatchNorm and ReLU, each halving the image; one linear layer.

    One linear layer takes the place of the paper's three, as is usual for small images; images that have
    shrunk to a pixel are not halved further.

    Source: Simonyan and Zisserman 2015, arXiv 1409.1556.

    Args:
        image_shape: (channels, height, width).
        outputs: classes.
        depth: 11, 13, 16 or 19, the weight layers of the paper's network.
        width: channels of the first stage (64 in the paper); later ones have 2, 4, 8 and 8 times as many.
    """

    def __init__(self, image_shape: tuple[int, int, int], outputs: int, depth: int, width: int) -> None:
        super().__init__()
        inputs, side = image_shape[0], min(image_shape[1:])
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for stage, (convolutions, factor) in enumerate(zip(_STAGES[depth], _CHANNELS, strict=True), start=1):
            for i in range(1, convolutions + 1):
                channels = width * factor
                layers[f"conv{stage}_{i}"] = nn.Conv2d(inputs, channels, 3, padding=1, bias=False)
                layers[f"norm{stage}_{i}"] = nn.BatchNorm2d(channels)
                layers[f"relu{stage}_{i}"] = nn.ReLU()
                inputs = channels
            if side > 1:
                layers[f"pool{stage}"] = nn.MaxPool2d(2)
                side //= 2
        self.features = nn.Sequential(layers)
        self.head = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to logits, (batch, outputs)."""
        features = self.features(x.contiguous(memory_format=torch.channels_last))
        return self.head(features.mean(dim=(2, 3)))
