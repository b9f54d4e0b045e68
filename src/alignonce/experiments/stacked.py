"""Networks of one shape as one program: their weights stacked, each with its own images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from alignonce import feedback_weights
from alignonce.experiments.training import as_pixels

_State = dict[str, Tensor]

# Images times networks that are tested at once: more would not fit the memory that training takes.
_TESTED_AT_ONCE = 10_000


class StackedNetworks:
    """Networks that differ in their values only, computed together.

    In each stacked tensor the first dimension counts the networks; below it is written n.

    Args:
        networks: of one architecture, under learning rules of one kind, on one device, in training mode.
            They keep their values until `network` is asked for them.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self._networks = networks
        weights, self._buffers = stack_module_state(list(networks))
        self._weights = {name: nn.Parameter(weight.detach()) for name, weight in weights.items()}
        self.weights = nn.ParameterList(self._weights.values())
        """The stacked forward weights, for an optimiser that treats each number by itself."""
        shape = deepcopy(networks[0])
        self._learn = _Traced(vmap(grad_and_value(_Learning(shape), has_aux=True)))
        self._test = _Traced(vmap(_Testing(deepcopy(shape)), in_dims=(0, 0, None, None)))
        names = {id(value): name for name, value in networks[0].state_dict(keep_vars=True).items()}
        self._layers = {name: (names[id(w)], names[id(b)]) for name, w, b in feedback_weights(networks[0])}

    def learn(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Put the gradients of a batch for each network into `weights`.

        Args:
            images: (n, batch, channels, height, width), uint8.
            labels: (n, batch), int64.

        Returns:
            Of each network: the loss before the step, (n,), and how many answers were right, (n,), int64.
        """
        gradients, (losses, hits) = self._learn(self._weights, self._buffers, images, labels)
        for name, weight in self._weights.items():
            weight.grad = gradients[name]
        return losses, hits

    def test(self, images: Tensor, labels: Tensor) -> tuple[list[float], list[float]]:
        """Test all networks on the same images, in evaluation mode.

        Args:
            images: (batch, channels, height, width), uint8.
            labels: (batch,), int64.

        Returns:
            Of each network: mean cross-entropy in nats, and the fraction of right answers.
        """
        size = max(1, _TESTED_AT_ONCE // len(self._networks))
        loss: Tensor | float = 0.0
        hits: Tensor | int = 0
        for some in zip(images.split(size), labels.split(size), strict=True):
            some_loss, some_hits = self._test(self._weights, self._buffers, *some)
            loss, hits = loss + some_loss.double(), hits + some_hits
        return (torch.as_tensor(loss) / len(labels)).tolist(), (torch.as_tensor(hits) / len(labels)).tolist()

    @torch.no_grad()
    def cosines(self) -> dict[str, list[float]]:
        """Measure alignment, as `alignonce.alignment` does for one network.

        Returns:
            By the name of the layer, cosine(W, B) of each network; NaN where W or B is all zero.
        """
        return {
            layer: _cosines(self._weights[weight], self._buffers[feedback]).tolist()
            for layer, (weight, feedback) in self._layers.items()
        }

    @torch.no_grad()
    def network(self, index: int) -> nn.Module:
        """Bring a network up to date.

        Args:
            index: which.

        Returns:
            The network that was given, with the values of now.
        """
        network, stacked = self._networks[index], self._weights | self._buffers
        for name, value in chain(network.named_parameters(), network.named_buffers()):
            value.copy_(stacked[name][index])
        return network


class _Learning:
    """Loss of one network on one batch, and how many answers were right."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.train()

    def __call__(self, weights: _State, buffers: _State, images: Tensor, labels: Tensor) -> Any:
        logits = functional_call(self.network, (weights, buffers), (as_pixels(images),))
        return F.cross_entropy(logits, labels), (logits.argmax(dim=1) == labels).sum()


class _Testing:
    """Summed loss of one network on test images, and how many answers were right."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval()

    def __call__(self, weights: _State, buffers: _State, images: Tensor, labels: Tensor) -> Any:
        logits = functional_call(self.network, (weights, buffers), (as_pixels(images),))
        return F.cross_entropy(logits, labels, reduction="sum"), (logits.argmax(dim=1) == labels).sum()


class _Traced:
    """A function as the bare list of its tensor operations, listed once for each shape of the images.

    `vmap` and `grad` cost several times the work itself on small layers, above all for autograd functions
    such as those that read feedback weights. Here they cost once.
    """

    def __init__(self, function: Callable[[_State, _State, Tensor, Tensor], Any]) -> None:
        self._function = function
        self._operations: dict[torch.Size, Callable[..., Any]] = {}

    @torch.no_grad()
    def __call__(self, weights: _State, buffers: _State, images: Tensor, labels: Tensor) -> Any:
        if images.shape not in self._operations:
            # Tracing computes, too, and running statistics must count no batch twice.
            spare = {name: value.clone() for name, value in buffers.items()}
            self._operations[images.shape] = make_fx(self._function)(weights, spare, images, labels)
        return self._operations[images.shape](weights, buffers, images, labels)


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.flatten(1).double(), b.flatten(1).double()
    return (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1))
