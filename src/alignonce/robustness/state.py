"""Running a model on images: no trace is left in it or in the libraries' random states."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from alignonce.robustness.checks import check_images, check_labels
from alignonce.undisturbed import undisturbed

__all__ = ["accuracy", "evaluating", "logits_of", "model_device", "predictions", "seeded"]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode with its parameters out of autograd's sight, then undo both.

    Beyond what `undisturbed` restores, each parameter gets its own ``.grad`` tensor and ``requires_grad``
    back. Gradients of the input are computed as usual.
    """
    gradients = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    with undisturbed(model, "eval"):
        try:
            for parameter, _, _ in gradients:
                parameter.grad = None
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter, grad, requires_grad in gradients:
                parameter.requires_grad_(requires_grad)
                parameter.grad = grad


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global random states of torch, NumPy and Python, and give them back as they were.

    For libraries that draw from global states; code of this package draws from generators of its own.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002  (the state that the libraries draw from)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


def model_device(model: nn.Module, default: torch.device) -> torch.device:
    """The device of a model's first parameter or buffer."""
    tensors = (*model.parameters(), *model.buffers())
    return tensors[0].device if tensors else default


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """The model's outputs for images of any device and dtype, as (N, classes); differentiable.

    Raises:
        ValueError: if the outputs are not one row of two or more logits per image.
    """
    floats = [p for p in (*model.parameters(), *model.buffers()) if p.is_floating_point()]
    dtype = floats[0].dtype if floats else images.dtype
    logits = model(images.to(model_device(model, images.device), dtype))
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the model must return logits of shape (N, classes), 2 classes or more, got {got}")
    return logits


def predictions(model: nn.Module, images: Tensor, batch_size: int) -> tuple[Tensor, int]:
    """The predicted classes, shape (N,), on the device of the images, and the number of classes.

    The model must be inside :func:`evaluating`.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    with torch.no_grad():
        parts = [logits_of(model, part) for part in images.split(batch_size)]
    return torch.cat([part.argmax(1) for part in parts]).to(images.device), parts[0].shape[1]


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> float:
    """The share of images that a model classifies right; checks images and labels first.

    The model must be inside :func:`evaluating`.
    """
    check_images(images)
    check_labels(labels, len(images))
    predicted, num_classes = predictions(model, images, batch_size)
    check_labels(labels, len(images), num_classes)
    return float((predicted == labels.to(predicted.device)).double().mean())
