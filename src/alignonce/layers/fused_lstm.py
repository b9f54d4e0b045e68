"""One layer of an LSTM in one direction, by the kernels that PyTorch itself uses on the CPU, given B.

The backward kernel reads the weights for one thing only: to carry errors from the gates back to the input and
to the hidden state of the step before. Given the feedback weights in their places, it returns all gradients
in one call; those of weights and biases do not depend on the weights.

The operators are not public: they are used if their schemas are the ones that are known here.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from alignonce.formats.base import gathered, needs_plain_operations
from alignonce.formats.compressed import Compressed, Feedback

__all__ = ["fits", "run"]

Result = tuple[Tensor, Tensor, Tensor]
"""Outputs (T, N, H), the last hidden state (N, H) and the last cell state (N, H)."""

StepByStep = Callable[[Tensor, Sequence[Tensor], Sequence[Tensor], Sequence[Tensor | None]], Result]

_LSTM = 2  # PyTorch's number of the mode
_FORWARD = (
    "aten::mkldnn_rnn_layer(Tensor input, Tensor weight0, Tensor weight1, Tensor weight2, Tensor weight3, "
    "Tensor hx_, Tensor cx_, bool reverse, int[] batch_sizes, int mode, int hidden_size, int num_layers, "
    "bool has_biases, bool bidirectional, bool batch_first, bool train) -> (Tensor, Tensor, Tensor, Tensor)"
)
_BACKWARD = (
    "aten::mkldnn_rnn_layer_backward(Tensor input, Tensor weight1, Tensor weight2, Tensor weight3, "
    "Tensor weight4, Tensor hx_, Tensor cx_tmp, Tensor output, Tensor hy_, Tensor cy_, Tensor? grad_output, "
    "Tensor? grad_hy, Tensor? grad_cy, bool reverse, int mode, int hidden_size, int num_layers, "
    "bool has_biases, bool train, bool bidirectional, int[] batch_sizes, bool batch_first, Tensor workspace) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def fits(tensors: Sequence[Tensor | None]) -> bool:
    """Return whether the kernels can take these tensors, here and now.

    Args:
        tensors: the input, weights, biases (or None) and states of a layer.
    """
    if is_compiling() or needs_plain_operations():
        return False
    if not torch.backends.mkldnn.enabled or torch.is_autocast_enabled("cpu") or not _operators_are_known():
        return False
    return all(
        t is None or (t.dtype == torch.float32 and t.device.type == "cpu" and t.numel() > 0) for t in tensors
    )


def run(
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    feedbacks: Sequence[Feedback],
    reverse: bool,
    step_by_step: StepByStep,
) -> Result:
    """Run all time steps.

    Args:
        x: (T, N, features).
        state: hidden and cell state before the first step, (N, H) each.
        weights: of the input, (4H, features), and of the hidden state, (4H, H).
        biases: (4H,) for each, or None.
        feedbacks: B for each weight, as tensors or compressed.
        reverse: whether the last time step comes first.
        step_by_step: computes the same from x, state, weights and biases in operations that can be
            differentiated twice; called only in a backward pass whose own graph is asked for
            (``create_graph=True``).
    """
    stored = [(f,) if isinstance(f, Tensor) else f.tensors for f in feedbacks]
    settings = [None if isinstance(f, Tensor) else (f.format, f.shape) for f in feedbacks]
    return _Layer.apply(
        x, *state, *weights, *biases, reverse, step_by_step, settings, len(stored[0]), *stored[0], *stored[1]
    )


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h: Tensor,
        c: Tensor,
        w_input: Tensor,
        w_hidden: Tensor,
        b_input: Tensor | None,
        b_hidden: Tensor | None,
        reverse: bool,
        step_by_step: StepByStep,
        settings: Any,
        split: int,
        *stored: Tensor,
    ) -> Result:
        biases = [w_input.new_zeros(len(w_input)) if b is None else b.detach() for b in (b_input, b_hidden)]
        with torch.enable_grad():  # else the kernel keeps no workspace for the backward pass
            output, hidden, cell, workspace = torch.ops.aten.mkldnn_rnn_layer(
                x.detach().contiguous(), w_input.detach(), w_hidden.detach(), *biases,
                h.detach().contiguous(), c.detach().contiguous(), reverse, [], _LSTM, h.shape[-1], 1,
                b_input is not None, False, False, True,
            )  # fmt: skip
        ctx.reverse, ctx.step_by_step, ctx.settings, ctx.split = reverse, step_by_step, settings, split
        # By reference, not saved: read only where the backward pass is to be differentiated itself.
        ctx.parameters = w_input, w_hidden, b_input, b_hidden
        ctx.versions = [None if p is None else p._version for p in ctx.parameters]
        ctx.save_for_backward(x, h, c, *biases, output, hidden, cell, workspace, *stored)
        return output, hidden, cell

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> tuple[Tensor | None, ...]:
        x, h, c, b_input, b_hidden, output, hidden, cell, workspace, *stored = ctx.saved_tensors
        if torch.is_grad_enabled():
            grads = _differentiable(ctx, (x, h, c), errors)
        else:
            parts = tuple(stored[: ctx.split]), tuple(stored[ctx.split :])
            feedbacks = (
                gathered(part[0]) if one is None else Compressed(one[0], part, one[1]).to_dense().to(x.dtype)
                for one, part in zip(ctx.settings, parts, strict=True)
            )
            dx, dw_input, dw_hidden, db_input, db_hidden, dh, dc = torch.ops.aten.mkldnn_rnn_layer_backward(
                x.contiguous(), *feedbacks, b_input, b_hidden, h.contiguous(), c.contiguous(),
                output, hidden, cell, *(error.contiguous() for error in errors),
                ctx.reverse, _LSTM, h.shape[-1], 1, ctx.parameters[2] is not None, True, False, [], False,
                workspace,
            )  # fmt: skip
            # The kernel gives states another leading dimension.
            grads = [dx, dh.view_as(h), dc.view_as(c), dw_input, dw_hidden, db_input, db_hidden]
        kept = [g if needed else None for g, needed in zip(grads, ctx.needs_input_grad, strict=False)]
        return *kept, *[None] * (len(ctx.needs_input_grad) - len(kept))


def _differentiable(
    ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], errors: tuple[Tensor, ...]
) -> list[Tensor | None]:
    """The same gradients, with a graph: the time steps are run again, one by one."""
    if [None if p is None else p._version for p in ctx.parameters] != ctx.versions:
        raise RuntimeError(
            "a weight of an LSTM was changed in place between its forward pass and a backward pass with "
            "create_graph=True, which reads it again"
        )
    x, h, c = inputs
    w_input, w_hidden, b_input, b_hidden = ctx.parameters
    outputs = ctx.step_by_step(x, (h, c), (w_input, w_hidden), (b_input, b_hidden))
    sources = [*inputs, *ctx.parameters]
    asked = [i for i, t in enumerate(sources) if t is not None and ctx.needs_input_grad[i]]
    found = torch.autograd.grad(
        outputs, [sources[i] for i in asked], errors, create_graph=True, allow_unused=True
    )
    grads: list[Tensor | None] = [None] * len(sources)
    for i, grad in zip(asked, found, strict=True):
        grads[i] = grad
    return grads


@functools.cache
def _operators_are_known() -> bool:
    def is_known(name: str, schema: str) -> bool:
        operator = getattr(torch.ops.aten, name, None)
        return operator is not None and str(operator.default._schema) == schema

    return (
        torch.backends.mkldnn.is_available()
        and is_known("mkldnn_rnn_layer", _FORWARD)
        and is_known("mkldnn_rnn_layer_backward", _BACKWARD)
    )
