"""The multilayer perceptron, plain, or with shortcuts and normalisation for great depth."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from alignonce.experiments.config.network import HiddenNorm

_NORMS: dict[HiddenNorm, Callable[[int], nn.Module]] = {
    "none": lambda width: nn.Identity(),
    "layer": nn.LayerNorm,
    "batch": nn.BatchNorm1d,
}


class MLP(nn.Module):
    """A multilayer perceptron: `depth` hidden ReLU layers of `width` units, and a linear output.

    A hidden layer computes h = relu(norm(W·x + b)), where the norm may be none. With shortcuts it gives
    x + h from the second hidden layer on; the first changes the width.

    Args:
        inputs: pixels of an image, in all channels.
        outputs: classes.
        depth: hidden layers.
        width: units in a hidden layer.
        shortcuts: whether a hidden layer's input is added to its output.
        hidden_norm: the norm of hidden layers.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        depth: int,
        width: int,
        shortcuts: bool = False,
        hidden_norm: HiddenNorm = "none",
    ) -> None:
        super().__init__()
        self.depth, self.shortcuts = depth, shortcuts
        for i, (fan_in, fan_out) in enumerate(pairwise([inputs, *[width] * depth]), start=1):
            self.add_module(f"hidden{i}", nn.Linear(fan_in, fan_out))
            self.add_module(f"norm{i}", _NORMS[hidden_norm](width))
        self.output = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to logits, (batch, outputs)."""
        x = x.flatten(1)
        for i in range(1, self.depth + 1):
            h = torch.relu(getattr(self, f"norm{i}")(getattr(self, f"hidden{i}")(x)))
            x = x + h if self.shortcuts and i > 1 else h
        return self.output(x)

    @torch.no_grad()
    def tame_shortcuts(self) -> None:
        """Divide what scales h beside a shortcut by depth, so that the sum x + h + ... begins bounded.

        That is the norm's scale, or else W. h is positive in the mean, so that depth layers of usual scale
        would add up to a signal that grows with depth, or without norms doubles layer by layer.
        """
        if self.shortcuts:
            for i in range(2, self.depth + 1):
                norm = getattr(self, f"norm{i}")
                scaled = getattr(self, f"hidden{i}") if isinstance(norm, nn.Identity) else norm
                scaled.weight.div_(self.depth)
