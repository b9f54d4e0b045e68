"""Forward-mode derivatives (``torch.func.jvp``) of layers: those of the forward pass, in which B has no part.

Classes of their own, since the compiler takes no function that has a ``jvp``, and since W is kept for it.
"""

from typing import Any

import torch
from torch import Tensor

from alignonce.carrying import CarryBilinear, CarryConvolution, CarryLinear, Substitute

__all__ = ["with_jvp"]

_Function = type[torch.autograd.Function]


def with_jvp(function: _Function) -> _Function:
    """One of the functions of :mod:`alignonce.carrying`, with a forward-mode derivative."""
    return _WITH_JVP[function]


def _multilinear(function: Any, factors: int) -> _Function:
    """The derivative of what is linear in each of its first arguments, and has a bias as the next one."""

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        function.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:factors])
        ctx.settings = [None if isinstance(i, Tensor) else i for i in inputs[factors + 1 :]]

    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        values, bias = list(ctx.saved_tensors), tangents[factors]
        output = 0
        for i, tangent in enumerate(tangents[:factors]):
            arguments = [*values[:i], tangent, *values[i + 1 :]]
            output = output + function.forward(*arguments, None if i else bias, *ctx.settings)
        return output

    members = {"setup_context": staticmethod(setup_context), "jvp": staticmethod(jvp)}
    return type(f"{function.__name__}WithJvp", (function,), members)


class _Substitute(Substitute):
    @staticmethod
    def jvp(ctx: Any, tensor: Tensor, value: Tensor) -> Tensor:
        return value.clone()


_WITH_JVP: dict[_Function, _Function] = {
    CarryLinear: _multilinear(CarryLinear, 2),
    CarryBilinear: _multilinear(CarryBilinear, 3),
    CarryConvolution: _multilinear(CarryConvolution, 2),
    Substitute: _Substitute,
}
