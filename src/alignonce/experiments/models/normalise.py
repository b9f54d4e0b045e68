"""The first part of every network: pixels to numbers of mean 0 and deviation 1."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """Shift and scale each channel of the pixels to mean 0 and deviation 1 over the training images."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            tensor = torch.as_tensor(values, dtype=torch.float32).detach().clone().view(1, -1, 1, 1)
            self.register_buffer(name, tensor)
        if not bool((self.std >= 0).all()):
            raise ValueError(f"std must be 0 or more in every channel, got {self.std.flatten().tolist()}")
        # A channel of one value everywhere has nothing to scale.
        self.std[self.std == 0] = 1

    def forward(self, images: Tensor) -> Tensor:
        """Return the normalised images, same shape."""
        return (images - self.mean) / self.std
