"""Networks of one shape as one program: their weights stacked, each with its own images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from alignonce import feedback_weights

_State = dict[str, Tensor]

_Loss = Callable[[Callable[..., Any], Any], tuple[Tensor, Mapping[str, Tensor]]]
"""As `Task.loss`: of a network and a batch, the mean loss, and sums of scores by name."""


# To list the operations of a function takes about as long as to call it so many times.
CALLS_BEFORE_TRACING = 20


class StackedNetworks:
    """Networks that differ in their values only, computed together.

    In each stacked tensor the first dimension counts the networks; below it is written n.

    Args:
        networks: of one architecture, under learning rules of one kind, on one device, in training mode.
            They keep their values until `network` is asked for them.
        loss: what they learn, as `Task.loss`.
        calls_before_tracing: batches of one shape before their operations are listed.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        loss: _Loss,
        calls_before_tracing: int = CALLS_BEFORE_TRACING,
    ) -> None:
        self._networks = networks
        weights, self._buffers = stack_module_state(list(networks))
        self._weights: _State = {name: nn.Parameter(weight.detach()) for name, weight in weights.items()}
        self.weights = nn.ParameterList(self._weights.values())
        """The stacked forward weights, for an optimiser that treats each number by itself."""
        learning, testing = deepcopy(networks[0]).train(), deepcopy(networks[0]).eval()
        self._learn = _Traced(
            vmap(grad_and_value(_loss_of(learning, loss), has_aux=True)), calls_before_tracing
        )
        self._test = _Traced(vmap(_loss_of(testing, loss), in_dims=(0, 0, None)), calls_before_tracing)
        names = {id(value): name for name, value in networks[0].state_dict(keep_vars=True).items()}
        self._layers = {name: (names[id(w)], names[id(b)]) for name, w, b in feedback_weights(networks[0])}

    def learn(self, batches: Sequence[Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Put the gradients of a batch for each network into `weights`.

        Args:
            batches: what a batch of the task is made of, each stacked, (n, ...).

        Returns:
            Of each network, as `Task.loss` gives them: the loss, (n,), and sums of scores by name, (n,).
        """
        gradients, (losses, scores) = self._learn(self._weights, self._buffers, batches)
        for name, weight in self._weights.items():
            weight.grad = gradients[name]
        return losses, scores

    def clip(self, norm: float) -> None:
        """Shorten the gradient of each network, as `torch.nn.utils.clip_grad_norm_` does for one.

        Args:
            norm: the largest that is allowed.
        """
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        norms = torch.stack([own.reshape(len(own), -1).norm(dim=1) for own in gradients]).norm(dim=0)
        factors = (norm / (norms + 1e-6)).clamp(max=1)
        for own in gradients:
            own.mul_(factors.view(-1, *[1] * (own.dim() - 1)))

    def test(self, batch: Sequence[Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Test all networks on one batch, in evaluation mode.

        Args:
            batch: what a batch of the task is made of.

        Returns:
            As `learn`.
        """
        return self._test(self._weights, self._buffers, batch)

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

    @torch.no_grad()
    def put_back(self, index: int) -> None:
        """Take over the values that a network has now.

        Args:
            index: which.
        """
        network, stacked = self._networks[index], self._weights | self._buffers
        for name, value in chain(network.named_parameters(), network.named_buffers()):
            stacked[name][index].copy_(value)


def _loss_of(network: nn.Module, loss: _Loss) -> Callable[[_State, _State, Sequence[Tensor]], Any]:
    """The loss as a function of weights and buffers, too."""
    return lambda weights, buffers, batch: loss(
        lambda *inputs: functional_call(network, (weights, buffers), inputs), batch
    )


class _Traced:
    """A function that is called often: soon as the bare list of its tensor operations, for each batch shape.

    `vmap` and `grad` cost several times the work itself on small layers, above all for autograd functions
    such as those that read feedback weights. In the list they are worked out.
    """

    def __init__(self, function: Callable[[_State, _State, Sequence[Tensor]], Any], after: int) -> None:
        self._function, self._after = function, after
        self._calls: Counter[tuple[torch.Size, ...]] = Counter()
        self._operations: dict[tuple[torch.Size, ...], Callable[..., Any]] = {}

    @torch.no_grad()
    def __call__(self, weights: _State, buffers: _State, batch: Sequence[Tensor]) -> Any:
        shapes = tuple(part.shape for part in batch)
        self._calls[shapes] += 1
        if self._calls[shapes] == self._after:
            # Tracing computes, too, and running statistics must count no batch twice.
            spare = {name: value.clone() for name, value in buffers.items()}
            self._operations[shapes] = make_fx(self._function)(weights, spare, batch)
        return self._operations.get(shapes, self._function)(weights, buffers, batch)


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.flatten(1).double(), b.flatten(1).double()
    return (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1))
