"""Layers with B put in by hand, in float64: what the gradients of a model under a learning rule must be.

Written apart from the library: plain autograd functions whose backward passes spell out, in operations that
can be differentiated again, dW and db from x and g, and dx from g and B. Between layers there is nothing but
PyTorch.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import grad as conv_grad

from alignonce import Backpropagation, feedback_weights, set_learning_rule

__all__ = ["by_hand", "flat_gradients"]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, feedback: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, feedback)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, feedback = ctx.saved_tensors
        rows, inputs = g.reshape(-1, g.shape[-1]), x.reshape(-1, x.shape[-1])
        return g @ feedback, rows.t() @ inputs, None, rows.sum(0)


class _Bilinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, weight: Tensor, feedback: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, y, feedback)
        return F.bilinear(x, y, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, y, feedback = ctx.saved_tensors
        return (
            torch.einsum("no,oij,nj->ni", g, feedback, y),
            torch.einsum("no,oij,ni->nj", g, feedback, x),
            torch.einsum("no,ni,nj->oij", g, x, y),
            None,
            g.sum(0),
        )


class _Convolution2d(torch.autograd.Function):
    """On a padded input; ``torch.nn.grad`` gives both gradients of a convolution as functions."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, feedback: Tensor, bias: Tensor | None, layer: nn.Conv2d
    ) -> Tensor:
        ctx.save_for_backward(x, feedback)
        ctx.settings = layer.stride, 0, layer.dilation, layer.groups
        return F.conv2d(x, weight, bias, *ctx.settings)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, feedback = ctx.saved_tensors
        dx = conv_grad.conv2d_input(x.shape, feedback, g, *ctx.settings)
        dw = conv_grad.conv2d_weight(x, feedback.shape, g, *ctx.settings)
        return dx, dw, None, g.sum((0, 2, 3)), None


class _ConvolutionTranspose2d(torch.autograd.Function):
    """The adjoint of a convolution: dx is a convolution of g with B, dW that of the pair (g, x)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, feedback: Tensor, bias: Tensor | None, layer: nn.ConvTranspose2d
    ) -> Tensor:
        ctx.save_for_backward(x, feedback)
        ctx.settings = layer.stride, layer.padding, layer.dilation, layer.groups
        stride, padding, dilation, groups = ctx.settings
        return F.conv_transpose2d(x, weight, bias, stride, padding, layer.output_padding, groups, dilation)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, feedback = ctx.saved_tensors
        dx = F.conv2d(g, feedback, None, *ctx.settings)
        dw = conv_grad.conv2d_weight(g, feedback.shape, x, *ctx.settings)
        return dx, dw, None, g.sum((0, 2, 3)), None


def by_hand(model: nn.Module) -> nn.Module:
    """A copy of a model under a rule with one B for each W, in float64, with B put in by hand.

    Knows Linear, Bilinear, Conv2d and ConvTranspose2d, and what is made of Linear: MultiheadAttention (batch
    first, self-attention), LSTM and GRU (one layer, batch first), GRUCell.
    """
    feedback = {name: b.detach().double().clone() for name, _, b in feedback_weights(model)}
    twin = copy.deepcopy(model)
    set_learning_rule(twin, Backpropagation())
    twin.double()
    for name, layer in twin.named_modules():
        forward = _forward_by_hand(name, layer, feedback)
        if forward is not None:
            layer.forward = forward
    return twin


def flat_gradients(model: nn.Module, loss: Tensor) -> Tensor:
    """All gradients of parameters as one vector in float64; zero for those that take none."""
    parameters = list(model.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat([
        (torch.zeros_like(p) if g is None else g).flatten().double()
        for p, g in zip(parameters, found, strict=True)
    ])  # fmt: skip


def _forward_by_hand(name: str, layer: Any, feedback: dict[str, Tensor]) -> Callable[..., Any] | None:
    def linear(x: Tensor, weight: str, bias: str) -> Tensor:
        key = name if weight == "weight" else f"{name}.{weight}"
        return _Linear.apply(x, getattr(layer, weight), feedback[key], getattr(layer, bias))

    def convolve(x: Tensor) -> Tensor:
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        padded = F.pad(x, layer._reversed_padding_repeated_twice, mode)
        return _Convolution2d.apply(padded, layer.weight, feedback[name], layer.bias, layer)

    def attend(x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        q, k, v = (
            part.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)
            for part in linear(x, "in_proj_weight", "in_proj_bias").chunk(3, -1)
        )
        weights = torch.softmax(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5, -1)
        return layer.out_proj((weights @ v).transpose(1, 2).flatten(2)), None

    def lstm(x: Tensor, state: tuple[Tensor, Tensor], suffix: str) -> tuple[Tensor, Tensor]:
        gates = linear(x, f"weight_ih{suffix}", f"bias_ih{suffix}") + linear(
            state[0], f"weight_hh{suffix}", f"bias_hh{suffix}"
        )
        i, f, g, o = gates.chunk(4, -1)
        cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell

    def gru(x: Tensor, h: Tensor, suffix: str) -> Tensor:
        ri, zi, ni = linear(x, f"weight_ih{suffix}", f"bias_ih{suffix}").chunk(3, -1)
        rh, zh, nh = linear(h, f"weight_hh{suffix}", f"bias_hh{suffix}").chunk(3, -1)
        new = (ni + (ri + rh).sigmoid() * nh).tanh()
        z = (zi + zh).sigmoid()
        return (1 - z) * new + z * h

    def through_time(x: Tensor) -> tuple[Tensor, None]:
        directions = []
        for suffix in ("_l0", "_l0_reverse") if layer.bidirectional else ("_l0",):
            h = c = x.new_zeros(len(x), layer.hidden_size)
            outputs = []
            steps = x.unbind(1)
            for step in reversed(steps) if suffix.endswith("reverse") else steps:
                if isinstance(layer, nn.LSTM):
                    h, c = lstm(step, (h, c), suffix)
                else:
                    h = gru(step, h, suffix)
                outputs.append(h)
            if suffix.endswith("reverse"):
                outputs.reverse()
            directions.append(torch.stack(outputs, 1))
        return torch.cat(directions, -1), None

    def cell(x: Tensor, h: Tensor | None = None) -> Tensor:
        return gru(x, x.new_zeros(len(x), layer.hidden_size) if h is None else h, "")

    if isinstance(layer, nn.Linear) and name in feedback:
        return lambda x: linear(x, "weight", "bias")
    if isinstance(layer, nn.Bilinear):
        return lambda x, y: _Bilinear.apply(x, y, layer.weight, feedback[name], layer.bias)
    if isinstance(layer, nn.Conv2d):
        return convolve
    if isinstance(layer, nn.ConvTranspose2d):
        return lambda x: _ConvolutionTranspose2d.apply(x, layer.weight, feedback[name], layer.bias, layer)
    if isinstance(layer, nn.MultiheadAttention):
        return attend
    if isinstance(layer, nn.LSTM | nn.GRU):
        return through_time
    if isinstance(layer, nn.GRUCell):
        return cell
    return None
