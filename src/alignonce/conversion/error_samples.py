"""Samples of the errors that a model's layers are to carry back, for formats that keep what these need."""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils._pytree import tree_leaves

from alignonce.undisturbed import allowing_requires_grad, undisturbed

__all__ = ["ErrorSample", "sample_errors"]

_ROWS = 4096
"""At most so many errors are kept for each layer: more than the rows of most feedback weights."""


class ErrorSample(NamedTuple):
    """Errors at the output of a layer, (N, out): most to fit a format to, the others to check it by."""

    fitting: Tensor
    checking: Tensor


def sample_errors(
    model: nn.Module, layers: Mapping[str, nn.Module], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, ErrorSample]:
    """Send random errors back from a model's outputs, and keep what arrives at the outputs of its layers.

    The errors that a layer meets lie near few directions: those that the classes, carried back through the
    layers above, make of them. No labels and no loss are needed to find these: independent normal errors at
    the outputs show them as well. The model is run once, in the mode that it is in; its gradients, its
    buffers and the random state stay as they were.

    Args:
        model: the model; its gradients must be exact.
        layers: layers to watch, by name.
        args: positional arguments of a call of the model.
        kwargs: its keyword arguments.

    Returns:
        By name, at most 4,096 errors, in random order. Left out are layers for which no error at their
        output is one at a row of their weight (transposed and grouped convolutions, packed attention,
        recurrent layers) or that no error reaches.

    Raises:
        ValueError: if errors are not finite.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    edges: dict[str, list[GradientEdge]] = {}

    def watch(name: str) -> Callable[..., None]:
        def watch_output(layer: nn.Module, _: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.requires_grad:
                # Its edge, since an in-place ReLU that follows makes another tensor of the output.
                edges.setdefault(name, []).append(get_gradient_edge(output))

        return watch_output

    handles = [
        layer.register_forward_hook(watch(name)) for name, layer in layers.items() if _has_plain_errors(layer)
    ]
    try:
        with undisturbed(model), allowing_requires_grad():
            results = tree_leaves(model(*args, **kwargs))
            outputs = [y for y in results if isinstance(y, Tensor) and y.requires_grad]
            errors = [torch.randn(y.shape, device="cpu", generator=generator).to(y) for y in outputs]
            watched = [edge for of_layer in edges.values() for edge in of_layer]
            arrived: Iterator[Tensor | None] = iter(
                torch.autograd.grad(outputs, watched, errors, allow_unused=True)
                if outputs and watched
                else ()
            )
    finally:
        for handle in handles:
            handle.remove()
    samples: dict[str, ErrorSample] = {}
    for name, of_layer in edges.items():
        calls = [_rows(layers[name], error) for error in islice(arrived, len(of_layer)) if error is not None]
        if not calls:
            continue
        rows = torch.cat(calls)
        sample = rows[torch.randperm(len(rows), device="cpu", generator=generator)[:_ROWS].to(rows.device)]
        if not sample.isfinite().all():
            raise ValueError(f"inputs: the errors that arrive at {name} are not finite; give a usual batch")
        checking = max(1, len(sample) // 8)
        if sample.any():
            samples[name] = ErrorSample(sample[checking:] if len(sample) > 1 else sample, sample[:checking])
    return samples


def _has_plain_errors(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return layer.groups == 1
    return isinstance(layer, nn.Linear | nn.Bilinear)


def _rows(layer: nn.Module, error: Tensor) -> Tensor:
    """Errors (N, out), in float32 or wider."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        error = error.movedim(-len(layer.kernel_size) - 1, -1)
    rows = error.reshape(math.prod(error.shape[:-1]), error.shape[-1])
    return rows.to(torch.promote_types(rows.dtype, torch.float32))
