"""Nodes that direct feedback puts into the graph of a backward pass."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignonce.direct.matrices import Action, carry

__all__ = ["CutInput", "Join", "Mark", "cuts_behind"]


class Join(torch.autograd.Function):
    """The identity on the output, whose error goes to all tapped inputs as well."""

    generate_vmap_rule = True

    @staticmethod
    def forward(output: Tensor, end_of: Any, actions: Any, *feedback_and_inputs: Tensor) -> Tensor:
        """Return the output."""
        return output.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep B and the shapes of inputs."""
        _, ctx.end_of, ctx.actions, *rest = inputs
        count = len(rest) // 2
        ctx.save_for_backward(*rest[:count])
        ctx.shapes = [(h.shape, h.dtype) for h in rest[count:]]

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, ...]:
        """Give each input B·e."""
        errors, rows = [], None
        for feedback, action, (shape, dtype) in zip(ctx.saved_tensors, ctx.actions, ctx.shapes, strict=True):
            if action[0] == "last":  # by far the most frequent: the same rows for all
                if rows is None or rows.dtype != feedback.dtype:
                    rows = error.to(feedback.dtype).reshape(-1, feedback.shape[0])
                back = rows.mm(feedback).reshape(shape)
            else:
                back = carry(error, feedback, action, shape)
            errors.append(back.to(dtype))
        return (error, None, None, *[None] * len(errors), *errors)


class Mark(torch.autograd.Function):
    """The identity; the graph goes on behind it, and no error does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cut: "CutInput") -> Tensor:
        """Return x."""
        ctx.cut = cut
        return x.detach()

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[None, None]:
        """Let nothing through."""
        if not ctx.cut.joined:
            raise RuntimeError(
                f"direct feedback: the loss depends on {ctx.cut.name!r}, but on no output layer that ran: "
                "errors start there. Let the loss depend on the model's output, or give what it depends on a "
                "learning rule of its own"
            )
        return None, None


@dataclass(eq=False)
class CutInput:
    """An input that was cut off past the model's own call."""

    state: object
    """That of the hooks of one model."""
    name: str
    x: Tensor
    feedback: dict[int, tuple[Tensor, Action]]
    """By number of the output."""
    joined: bool = False


def cuts_behind(node: Any, state: object) -> list[CutInput]:
    """The inputs cut off on all ways back from a node to an earlier forward pass."""
    found: list[CutInput] = []
    queue, seen = [node], set()
    while queue:
        node = queue.pop()
        if node is None or node in seen or getattr(node, "end_of", None) is state:
            continue
        seen.add(node)
        cut = getattr(node, "cut", None)
        if isinstance(cut, CutInput) and cut.state is state:
            found.append(cut)
        queue.extend(before for before, _ in node.next_functions)
    return found
