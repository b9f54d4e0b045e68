"""Layer operations with a separate feedback weight, written for their own sake: NumPy, float64, no autograd.

Convolutions go through a table of positions. Their two sides are a "fine" grid (a convolution's input, a
transposed convolution's output) and a "coarse" grid (the other one); ``table[a, k]`` is the fine position
that coarse position ``a`` meets under kernel element ``k``, or -1 where that is padding.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Pads = Sequence[tuple[int, int]]

NUMPY_PADDING = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


class Expected(NamedTuple):
    """A value and its gradients, given the gradient of the value."""

    output: Array
    grad_inputs: tuple[Array, ...]
    grad_weight: Array
    grad_bias: Array


def linear(x: Array, weight: Array, feedback: Array, bias: Array, grad: Array) -> Expected:
    """y[o] = sum_i W[o, i] x[i] + b[o] at each leading position, one after the other."""
    n_out, n_in = weight.shape
    xs, grads = x.reshape(-1, n_in), grad.reshape(-1, n_out)
    output, grad_x, grad_w = np.zeros(grads.shape), np.zeros(xs.shape), np.zeros(weight.shape)
    for row in range(len(xs)):
        for o, i in product(range(n_out), range(n_in)):
            output[row, o] += weight[o, i] * xs[row, i]
            grad_x[row, i] += grads[row, o] * feedback[o, i]
            grad_w[o, i] += grads[row, o] * xs[row, i]
        output[row] += bias
    return Expected(output.reshape(grad.shape), (grad_x.reshape(x.shape),), grad_w, grads.sum(0))


def bilinear(x1: Array, x2: Array, weight: Array, feedback: Array, bias: Array, grad: Array) -> Expected:
    """y[o] = sum_ij x1[i] W[o, i, j] x2[j] + b[o] at each leading position, one after the other."""
    n_out, n_1, n_2 = weight.shape
    rows1, rows2, grads = x1.reshape(-1, n_1), x2.reshape(-1, n_2), grad.reshape(-1, n_out)
    output, grad_w = np.zeros(grads.shape), np.zeros(weight.shape)
    grad_1, grad_2 = np.zeros(rows1.shape), np.zeros(rows2.shape)
    for n in range(len(grads)):
        for o, i, j in product(range(n_out), range(n_1), range(n_2)):
            output[n, o] += rows1[n, i] * weight[o, i, j] * rows2[n, j]
            grad_1[n, i] += grads[n, o] * feedback[o, i, j] * rows2[n, j]
            grad_2[n, j] += grads[n, o] * feedback[o, i, j] * rows1[n, i]
            grad_w[o, i, j] += grads[n, o] * rows1[n, i] * rows2[n, j]
        output[n] += bias
    inputs = grad_1.reshape(x1.shape), grad_2.reshape(x2.shape)
    return Expected(output.reshape(grad.shape), inputs, grad_w, grads.sum(0))


def conv(
    x: Array, weight: Array, feedback: Array, bias: Array, grad: Array,
    stride: Sequence[int], pads: Pads, dilation: Sequence[int], groups: int, padding_mode: str = "zeros",
) -> Expected:  # fmt: skip
    """A convolution; ``pads`` are the widths before and after each spatial dimension."""
    spatial, kernel = x.shape[2:], weight.shape[2:]
    positions = np.arange(int(np.prod(spatial))).reshape(spatial)
    if padding_mode == "zeros":
        padded = np.pad(positions, pads, constant_values=-1)
    else:
        padded = np.pad(positions, pads, mode=NUMPY_PADDING[padding_mode])
    table = np.array(
        [
            [
                padded[tuple(a * s + k * d for a, k, s, d in zip(at, element, stride, dilation, strict=True))]
                for element in np.ndindex(*kernel)
            ]
            for at in np.ndindex(*grad.shape[2:])
        ]
    )
    fine, coarse, w, b = _flat(x), _flat(grad), _flat(weight), _flat(feedback)
    output, grad_x, grad_w = np.zeros(coarse.shape), np.zeros(fine.shape), np.zeros(w.shape)
    for i, o in _groups(fine.shape[1], coarse.shape[1], groups):
        columns = _gather(fine[:, i], table)
        output[:, o] = np.einsum("ncak,ock->noa", columns, w[o])
        grad_x[:, i] = _scatter(np.einsum("noa,ock->ncak", coarse[:, o], b[o]), table, fine.shape[2])
        grad_w[o] = np.einsum("noa,ncak->ock", coarse[:, o], columns)
    output += bias[:, None]
    return Expected(
        output.reshape(grad.shape), (grad_x.reshape(x.shape),), grad_w.reshape(weight.shape),
        coarse.sum((0, 2)),
    )  # fmt: skip


def conv_transpose(
    x: Array, weight: Array, feedback: Array, bias: Array, grad: Array,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int,
) -> Expected:  # fmt: skip
    """A transposed convolution; the output padding follows from the shape of ``grad``."""
    spatial, kernel = grad.shape[2:], weight.shape[2:]
    table = np.full((int(np.prod(x.shape[2:])), int(np.prod(kernel))), -1)
    for (a, at), (k, element) in product(enumerate(np.ndindex(*x.shape[2:])), enumerate(np.ndindex(*kernel))):
        to = [
            p * s + e * d - pad
            for p, e, s, d, pad in zip(at, element, stride, dilation, padding, strict=True)
        ]
        if all(0 <= t < size for t, size in zip(to, spatial, strict=True)):
            table[a, k] = np.ravel_multi_index(to, spatial)
    coarse, fine, w, b = _flat(x), _flat(grad), _flat(weight), _flat(feedback)
    output, grad_x, grad_w = np.zeros(fine.shape), np.zeros(coarse.shape), np.zeros(w.shape)
    for i, o in _groups(coarse.shape[1], fine.shape[1], groups):
        columns = _gather(fine[:, o], table)
        output[:, o] = _scatter(np.einsum("nia,iok->noak", coarse[:, i], w[i]), table, fine.shape[2])
        grad_x[:, i] = np.einsum("noak,iok->nia", columns, b[i])
        grad_w[i] = np.einsum("nia,noak->iok", coarse[:, i], columns)
    output += bias[:, None]
    return Expected(
        output.reshape(grad.shape), (grad_x.reshape(x.shape),), grad_w.reshape(weight.shape), fine.sum((0, 2))
    )


def _flat(x: Array) -> Array:
    """Two leading dimensions and the spatial ones as one."""
    return x.reshape(*x.shape[:2], int(np.prod(x.shape[2:])))


def _groups(n_in: int, n_out: int, groups: int) -> list[tuple[slice, slice]]:
    i, o = n_in // groups, n_out // groups
    return [(slice(g * i, (g + 1) * i), slice(g * o, (g + 1) * o)) for g in range(groups)]


def _gather(fine: Array, table: NDArray[np.int_]) -> Array:
    """(N, C, fine) to (N, C, coarse, kernel), 0 in the padding."""
    return np.where(table >= 0, fine[:, :, table], 0.0)


def _scatter(values: Array, table: NDArray[np.int_], size: int) -> Array:
    """(N, C, coarse, kernel) to (N, C, fine), adding up; what falls into the padding is lost."""
    fine = np.zeros((*values.shape[:2], size))
    for a, k in np.ndindex(*table.shape):
        if table[a, k] >= 0:
            fine[:, :, table[a, k]] += values[:, :, a, k]
    return fine
