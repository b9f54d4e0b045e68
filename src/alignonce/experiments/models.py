"""The networks that the experiments train.

Both take raw pixels in [0, 1], shape (batch, channels, height, width), and return logits, shape
(batch, classes). Normalisation is part of the network, so that whoever perturbs its input does so in pixels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from alignonce import DirectFeedback, set_learning_rule
from alignonce.experiments.config import NetworkConfig, RunConfig
from alignonce.experiments.rule_specs import parse_rule
from alignonce.experiments.seeds import derived_seed


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


class MLP(nn.Sequential):
    """A multilayer perceptron: `depth` hidden ReLU layers of `width` units, and a linear output."""

    def __init__(self, inputs: int, outputs: int, depth: int, width: int) -> None:
        sizes = [inputs, *[width] * depth]
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for i, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
            layers[f"hidden{i}"] = nn.Linear(fan_in, fan_out)
            layers[f"relu{i}"] = nn.ReLU()
        layers["output"] = nn.Linear(sizes[-1], outputs)
        super().__init__(layers)


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
        # vmap they are computed with the networks side by side as channels, in an order of their own.
        if not torch._C._are_functorch_transforms_active():
            features = features.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.head(self.blocks(features).mean(dim=(2, 3)))
        return logits


def build_model(
    config: NetworkConfig,
    seed: int,
    image_shape: tuple[int, int, int],
    num_classes: int,
    mean: Sequence[float] | Tensor,
    std: Sequence[float] | Tensor,
) -> nn.Module:
    """Build a network whose initial forward weights depend on the architecture and the seed only.

    Weights are drawn on the CPU from a generator of their own: every device gets the same ones, and the
    global random state is left as it was.

    Args:
        config: the network; other fields of a larger configuration are not read.
        seed: the seed of the forward weights.
        image_shape: (channels, height, width).
        num_classes: how many logits.
        mean: mean of each channel over the training images, pixels in [0, 1].
        std: deviation of each channel, likewise.

    Returns:
        The network, on the CPU, in training mode; its part `pixels` normalises, `net` is the network proper.
    """
    depth, width = config.size
    body: nn.Module
    # Constructors draw weights from the global state before ours replace them; skipping that is faster, too.
    with torch.device("meta"):
        if config.model == "mlp":
            channels, height, image_width = image_shape
            body = MLP(channels * height * image_width, num_classes, depth, width)
        else:
            body = SmallResNet(image_shape, num_classes, depth, width)
    body.to_empty(device="cpu")
    _initialise(body, config.init, torch.Generator().manual_seed(derived_seed(seed, "weights")))
    return nn.Sequential(OrderedDict(pixels=Normalise(mean, std), net=body))


def _initialise(model: nn.Module, init: str, generator: torch.Generator) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            if init == "he":
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            else:
                nn.init.xavier_normal_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


def build_run_model(
    config: RunConfig,
    image_shape: tuple[int, int, int],
    num_classes: int,
    mean: Sequence[float] | Tensor,
    std: Sequence[float] | Tensor,
) -> nn.Module:
    """Build a run's network under its learning rule, both as they are before the first step.

    Args:
        config: the run.
        image_shape: (channels, height, width).
        num_classes: how many logits.
        mean: mean of each channel over the training images, pixels in [0, 1].
        std: deviation of each channel, likewise.

    Returns:
        The network, on the CPU.
    """
    model = build_model(config, config.seed, image_shape, num_classes, mean, std)
    rule = parse_rule(config.rule, derived_seed(config.seed, "feedback"))
    # Direct feedback must see the shapes of a batch; the other rules need none.
    inputs = torch.zeros(2, *image_shape) if isinstance(rule, DirectFeedback) else None
    set_learning_rule(model, rule, norms=config.norms, inputs=inputs)
    return model
