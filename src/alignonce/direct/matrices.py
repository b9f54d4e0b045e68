"""The random matrices of direct feedback: how each acts on an output's error, and its size."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from alignonce.direct.labels import Shapes
from alignonce.layers.kinds import layer_kind

__all__ = ["Action", "carry", "fits", "size", "action_of"]


class Action(NamedTuple):
    """How B takes an output's error to an input."""

    kind: str
    """``"position"``: on the features of each position (token, pixel, example) by itself; ``"last"``: so too,
    where features are the last dimension of both. ``"example"``: on all of an example. ``"sum"``: on the sum
    over examples, for an input that is one for all."""
    output_dim: int
    """Of features (counted from the end) or of the batch."""
    input_dim: int
    output_dims: int
    """How many dimensions the output has in a batch: with one less it is one example."""


def action_of(layer: nn.Module, output: Shapes, tapped: nn.Module, input: Shapes) -> Action | None:
    """How B acts between an output layer and a tapped module; None if examples cannot be told apart."""
    dims = len(output.first)
    features = _feature_dim(layer, dims)
    same_kind = isinstance(tapped, nn.modules.conv._ConvNd) == isinstance(layer, nn.modules.conv._ConvNd)
    if (same_kind or layer_kind(type(tapped)) is None) and len(input.first) == dims > 1:
        positions = [_without(shape, features) for shape in (*output, *input)]
        if positions[0] == positions[2] and positions[1] == positions[3]:
            return Action("last" if features == -1 else "position", features, features, dims)
    if len(output.changed) != 1:
        return None
    (batch,) = output.changed
    if not input.changed:
        return Action("sum", batch, 0, dims)
    if len(input.changed) != 1:
        return None
    (input_batch,) = input.changed
    if [s[batch] for s in output] != [s[input_batch] for s in input]:
        return None
    return Action("example", batch, input_batch, dims)


def size(action: Action, output: torch.Size, input: torch.Size) -> tuple[int, int]:
    """Rows and columns of B."""
    if action.kind in ("last", "position"):
        return output[action.output_dim], input[action.input_dim]
    columns = input.numel() if action.kind == "sum" else input.numel() // input[action.input_dim]
    return output.numel() // output[action.output_dim], columns


def fits(output_size: int, feedback: Tensor, action: Action, input: Tensor) -> bool:
    """Return whether an output of so many elements and an input have the sizes that B was made for."""
    rows, columns = feedback.shape
    if action[0] == "sum":
        return input.numel() == columns
    return output_size * columns == input.numel() * rows


def carry(error: Tensor, feedback: Tensor, action: Action, shape: torch.Size) -> Tensor:
    """B·e, of an input's shape, for all actions but ``"last"``."""
    error = error.to(feedback.dtype)
    if action.kind == "position":
        rows = error.movedim(action.output_dim, -1).reshape(-1, feedback.shape[0])
        back = rows.mm(feedback)
        return back.reshape(*_without(shape, action.input_dim), -1).movedim(-1, action.input_dim)
    single = error.dim() < action.output_dims
    rows = (error if single else error.movedim(action.output_dim, 0)).reshape(-1, feedback.shape[0])
    if action.kind == "sum":
        rows = rows.sum(0, keepdim=True)
    back = rows.mm(feedback)
    if single or action.input_dim == 0:
        return back.reshape(shape)
    return back.reshape(-1, *_without(shape, action.input_dim)).movedim(0, action.input_dim)


def _feature_dim(layer: nn.Module, dims: int) -> int:
    """Of what a layer puts out, counted from the end: the channels of a convolution, else the last."""
    return -1 - len(layer.kernel_size) if isinstance(layer, nn.modules.conv._ConvNd) else -1


def _without(shape: torch.Size, dim: int) -> tuple[int, ...]:
    return tuple(size for i, size in enumerate(shape) if i != dim % len(shape))
