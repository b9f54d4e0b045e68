"""How the forward weights of every network begin."""

import torch
from torch import Tensor, nn

from alignonce.experiments.config.network import Init

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
