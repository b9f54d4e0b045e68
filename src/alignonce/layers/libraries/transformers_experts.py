"""Mixtures of experts of the ``transformers`` package, whose experts' weights are one parameter each.

All such classes have one contract, that of ``use_experts_implementation``: flags on the instance say how
their weights lie, and any implementation may take the place of the class's own loop over experts. Here that
is the loop, with a feedback weight for each slice.
"""

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from alignonce.layers import functional
from alignonce.layers.base import FeedbackLayer, random_like
from alignonce.layers.kinds import register_kind
from alignonce.layers.modes import runs_exactly

__all__ = ["experts_kind"]


class _FeedbackExperts(FeedbackLayer):
    """Experts with feedback weights of (experts, out, in), or (experts, in, out) where weights lie so."""

    weight_names = ("gate_up_proj", "up_proj", "down_proj")
    gate_up_proj: Tensor
    up_proj: Tensor
    down_proj: Tensor
    num_experts: int
    has_gate: bool
    has_bias: bool
    has_post_expert_norm: bool
    is_transposed: bool
    act_fn: Any
    _apply_gate: Any
    post_expert_norm: Any

    @classmethod
    def sample_arguments(cls, layer: nn.Module) -> Iterator[tuple[Any, ...]]:
        """Tokens, the experts of each, and the experts' shares."""
        experts, *sizes = layer.get_parameter("down_proj").shape
        width = sizes[1] if layer.is_transposed else sizes[0]
        states, shares = random_like(layer, (6, width)), random_like(layer, (6, 1)).abs()
        yield states, torch.arange(6, device=states.device).remainder(experts).unsqueeze(1), shares

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Map tokens (N, width) by the experts of each (N, k), weighted by (N, k), to (N, width)."""
        plain = type(self).plain_class
        if runs_exactly(self):
            return plain.forward(self, *args, **kwargs)
        # Classes differ in the names of these three, not in their order.
        _, states, chosen, shares = (
            inspect.signature(inspect.unwrap(plain.forward)).bind(self, *args, **kwargs).args
        )
        up_name = "gate_up_proj" if self.has_gate else "up_proj"
        ups, downs = self._maps(up_name), self._maps("down_proj")
        output = torch.zeros_like(states)
        # A number of experts or more stands for none, as where experts are spread over processes.
        for expert in chosen.unique().tolist():
            if expert >= self.num_experts:
                continue
            tokens, places = torch.where(chosen == expert)
            hidden = functional.linear(states[tokens], *ups[expert])
            hidden = self._apply_gate(hidden) if self.has_gate else self.act_fn(hidden)
            result = functional.linear(hidden, *downs[expert])
            if self.has_post_expert_norm:
                result = self.post_expert_norm(result)
            result = result * shares[tokens, places, None]
            output = output.index_add(0, tokens, result.to(output.dtype))
        return output

    def _maps(self, name: str) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """W, B and bias of each expert, with W and B as (out, in)."""
        pair = getattr(self, name), self.feedback_of(name)
        weights, feedbacks = (x.transpose(1, 2) if self.is_transposed else x for x in pair)
        biases = getattr(self, f"{name}_bias").unbind() if self.has_bias else [None] * self.num_experts
        # Unbound at once, since a graph of single selections would fill the whole gradient for each.
        return list(zip(weights.unbind(), feedbacks.unbind(), biases, strict=True))


class _FeedbackSortedExperts(FeedbackLayer):
    """Llama 4's experts, all of which get equally many rows: gate and up in one (experts, in, out)."""

    weight_names = ("gate_up_proj", "down_proj")
    gate_up_proj: Tensor
    down_proj: Tensor
    act_fn: Any

    @classmethod
    def sample_arguments(cls, layer: nn.Module) -> Iterator[tuple[Any, ...]]:
        """Two rows for each expert."""
        experts, width, _ = layer.get_parameter("gate_up_proj").shape
        yield (random_like(layer, (2 * experts, width)),)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map (experts · n, width), sorted by expert, to the same shape."""
        if runs_exactly(self):
            return super().forward(hidden_states)
        ups, downs = (
            (getattr(self, name).transpose(1, 2).unbind(), self.feedback_of(name).transpose(1, 2).unbind())
            for name in self.weight_names
        )
        outputs = []
        for rows, *maps in zip(hidden_states.chunk(len(ups[0])), *ups, *downs, strict=True):
            up_weight, up_feedback, down_weight, down_feedback = maps
            gate, up = functional.linear(rows, up_weight, up_feedback).chunk(2, dim=-1)
            outputs.append(functional.linear(up * self.act_fn(gate), down_weight, down_feedback))
        return torch.cat(outputs)


def experts_kind(cls: type[nn.Module]) -> type[FeedbackLayer] | None:
    """The kind for a class of experts under the contract, and for Llama 4's; None for others."""
    if cls.__name__ == "Llama4TextExperts":
        return _register(_FeedbackSortedExperts, cls)
    if not (
        cls.__name__.endswith("Experts")
        and hasattr(cls, "_apply_gate")
        and hasattr(cls.forward, "__wrapped__")
    ):
        return None
    return _register(_FeedbackExperts, cls)


def _register(base: type[FeedbackLayer], cls: type[nn.Module]) -> type[FeedbackLayer]:
    members = {"plain_class": cls, "equivalent_to": cls, "__module__": cls.__module__}
    return register_kind(type(f"Feedback{cls.__name__}", (base, cls), members))
