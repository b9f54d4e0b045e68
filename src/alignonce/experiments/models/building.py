"""From a configuration to a network: the right kind, its initial weights, its learning rule."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from alignonce import feedback_weights, set_learning_rule
from alignonce.experiments.config.format_specs import parse_format
from alignonce.experiments.config.network import Init, NetworkConfig
from alignonce.experiments.config.rule_specs import parse_rule
from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.config.seeds import derived_seed
from alignonce.experiments.models.gpt import GPT
from alignonce.experiments.models.lstm import RowLSTM
from alignonce.experiments.models.mlp import MLP
from alignonce.experiments.models.resnet import ResNet18, SmallResNet
from alignonce.experiments.models.vgg import VGG
from alignonce.experiments.models.vit import ViT

# As in the code of GPT-2 (Radford et al. 2019), whatever the fan-in.
_SMALL = 0.02


def initialise(model: nn.Module, init: Init, generator: torch.Generator) -> None:
    """Draw the weights of all layers; biases become zero, norm layers the identity.

    Args:
        model: the network, in the order of whose layers numbers are drawn.
        init: He, Glorot, LeCun (normal, by fan-in or fan-in and fan-out) or small (normal, deviation 0.02).
        generator: where the numbers come from.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            _draw(module.weight, init, generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.MultiheadAttention):
            # Three matrices in one: each has its own fan-out.
            for projection in module.in_proj_weight.detach().chunk(3):
                _draw(projection, init, generator)
            nn.init.zeros_(module.in_proj_bias)
        elif isinstance(module, nn.LSTM):
            for name, values in module.named_parameters(recurse=False):
                # Four gates in one: each has its own fan-out.
                for gate in values.detach().chunk(4):
                    _draw(gate, init, generator) if "weight" in name else nn.init.zeros_(gate)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm):
            module.reset_parameters()


def _draw(weight: Tensor, init: Init, generator: torch.Generator) -> None:
    if init == "he":
        nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
    elif init == "lecun":
        nn.init.normal_(weight, std=weight[0].numel() ** -0.5, generator=generator)
    elif init == "small":
        nn.init.normal_(weight, std=_SMALL, generator=generator)
    else:
        nn.init.xavier_normal_(weight, generator=generator)


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


_PROBE_IMAGES, _PROBE_PIXELS, _PROBE_TOKENS = 256, 1 << 20, 1024
"""At most so much is in a batch of noise, to whose errors a low rank is fitted; but two examples at least."""


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
    # Constructors draw weights from the global state before ours replace them; skipping that is faster, too.
    with torch.device("meta"):
        body = _network(config, image_shape, num_classes)
    body.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(derived_seed(seed, "weights"))
    initialise(body, config.first_weights, generator)
    if isinstance(body, MLP):
        body.tame_shortcuts()
    elif isinstance(body, ViT):
        body.draw_positions(generator)
    return nn.Sequential(OrderedDict(pixels=Normalise(mean, std), net=body))


def _network(config: NetworkConfig, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    depth, width = config.size
    if config.model == "mlp":
        pixels = math.prod(image_shape)
        return MLP(pixels, num_classes, depth, width, config.shortcuts, config.hidden_norm)
    if config.model == "resnet":
        return SmallResNet(image_shape, num_classes, depth, width)
    if config.model == "vgg":
        return VGG(image_shape, num_classes, depth, width)
    if config.model == "resnet18":
        return ResNet18(image_shape, num_classes, width)
    if config.model == "lstm":
        return RowLSTM(image_shape[0] * image_shape[2], num_classes, depth, width)
    return ViT(image_shape, num_classes, depth, width, config.heads or 1)


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
    images = max(2, min(_PROBE_IMAGES, _PROBE_PIXELS // math.prod(image_shape)))
    return _under_rule(model, config, partial(torch.rand, (images, *image_shape)))


def build_language_model(config: RunConfig, vocabulary: int) -> nn.Module:
    """Build a run's GPT under its learning rule, both as they are before the first step.

    Args:
        config: the run.
        vocabulary: tokens that there are.

    Returns:
        The network, on the CPU.
    """
    depth, width = config.size
    with torch.device("meta"):
        model = GPT(vocabulary, config.context, depth, width, config.heads or 1)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(derived_seed(config.seed, "weights"))
    initialise(model, config.first_weights, generator)
    model.draw_embeddings(generator)
    windows = max(2, _PROBE_TOKENS // config.context)
    return _under_rule(model, config, partial(torch.randint, vocabulary, (windows, config.context)))


def _under_rule(model: nn.Module, config: RunConfig, draw_noise: Callable[..., Tensor]) -> nn.Module:
    """Set the run's learning rule.

    Where it must see a batch (the shapes that direct feedback goes to, the errors that a low rank is fitted
    to), noise does: it needs no data, so that a run's network is known from its configuration.
    """
    rule = parse_rule(config.rule, derived_seed(config.seed, "feedback"))
    format = parse_format(config.format)
    direct, inputs = rule.has_direct_feedback, None
    if direct or format.fits_errors:
        noise = draw_noise(generator=torch.Generator().manual_seed(derived_seed(config.seed, "probes")))
        inputs = noise[:2] if direct else noise
    set_learning_rule(
        model, rule, where=config.where or None, format=format, norms=config.norms, inputs=inputs
    )
    if config.feedback_scale != 1:
        for _, _, feedback in feedback_weights(model):
            feedback.mul_(config.feedback_scale)
    return model
