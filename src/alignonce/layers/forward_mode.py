"""Forward-mode derivatives (``torch.func.jvp``) of layers: those of the forward pass, in which B has no part.

Classes of their own, since the compiler takes no function that has a ``jvp``, and since W is kept for it.
"""

from typing import Any

import torch
from torch import Tensor

from alignonce.layers.autograd_functions import CarryBilinear, CarryConvolution, CarryLinear, Substitute

__all__ = ["with_jvp"]

_Function = type[torch.autograd.Function]


def with_jvp(function: _Function) -> _Function:
    """One of the functions of :mod:`alignonce.layers.autograd_functions`, with a forward-mode derivative."""
    return _WITH_JVP[function]


def _multilinear(function: Any, factors: int) -> _Function:
    """The derivative of what is linear in each of its first arguments, and has a bias as the next one."""

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        function.setup_context(ctx, inputs, output)
        feedback = [i for i in inputs[factors + 1 :] if isinstance(i, Tensor)]
        ctx.save_for_forward(*inputs[:factors], *feedback)
        ctx.settings = inputs[factors + 1 : len(inputs) - len(feedback)]

    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        # By the function itself, so that a tangent's own gradients are the tangents of the rule's gradients:
        # they go back through B where the tangent came through W, and through B's tangent, 0, where W's was.
        *inputs, weight = ctx.saved_tensors[:factors]
        *changes, change, bias = tangents[: factors + 1]
        output = this.apply(*inputs, change, bias, None, *ctx.settings[1:], torch.zeros_like(weight))
        for i, tangent in enumerate(changes):
            at = [*inputs[:i], tangent, *inputs[i + 1 :]]
            output = output + this.apply(*at, weight, None, *ctx.settings, *ctx.saved_tensors[factors:])
        return output

    members = {"setup_context": staticmethod(setup_context), "jvp": staticmethod(jvp)}
    this: Any = type(f"{function.__name__}WithJvp", (function,), members)
    return this


class _Substitute(Substitute):
    @staticmethod
    def jvp(ctx: Any, tensor: Tensor, value: Tensor) -> Tensor:
        return _Substitute.apply(tensor, value)


_WITH_JVP: dict[_Function, _Function] = {
    CarryLinear: _multilinear(CarryLinear, 2),
    CarryBilinear: _multilinear(CarryBilinear, 3),
    CarryConvolution: _multilinear(CarryConvolution, 2),
    Substitute: _Substitute,
}
