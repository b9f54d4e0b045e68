"""What the functions of this package ask of their input, in one place, and the optional libraries."""

from collections.abc import Iterable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

__all__ = ["check_choice", "check_images", "check_labels", "optional_module"]


def check_images(images: Tensor) -> None:
    """Raise unless the images are a non-empty float batch (N, C, H, W) of pixels in [0, 1]."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a torch.Tensor, got {type(images).__name__}")
    if images.ndim != 4:
        raise ValueError(f"images must have shape (N, C, H, W), got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise ValueError(f"images must be floating point pixels in [0, 1], got {images.dtype}")
    if not images.numel():
        raise ValueError(f"images must hold at least one image, got shape {tuple(images.shape)}")
    low, high = images.min().item(), images.max().item()
    if not (low >= 0 and high <= 1):  # NaN fails this too
        raise ValueError(
            f"images must be raw pixels in [0, 1], got values from {low:.4g} to {high:.4g}: put the "
            "normalisation into the model"
        )


def check_labels(labels: Tensor, count: int, num_classes: int | None = None) -> None:
    """Raise unless the labels are ``count`` class numbers, each below ``num_classes`` where that is known."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a torch.Tensor, got {type(labels).__name__}")
    if labels.shape != (count,):
        raise ValueError(f"labels must have shape ({count},), one for each image, got {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be whole numbers, got {labels.dtype}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (num_classes is not None and high >= num_classes):
        bound = "0 or more" if num_classes is None else f"in 0..{num_classes - 1}, as the model's outputs"
        raise ValueError(f"labels must be {bound}, got values from {low} to {high}")


def check_choice(what: str, name: object, known: Iterable[object]) -> None:
    """Raise unless ``name`` is one of the known ones, which the error lists."""
    known = list(known)
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; there are {', '.join(map(str, known))}")


def optional_module(module: str, package: str) -> Any:
    """Import a module of a library that only this package needs.

    Raises:
        ImportError: if the library is not installed; the message names the extra.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the library is there and misses something itself
        raise ImportError(
            f"this needs {package}, which is not installed: pip install alignonce[robustness]"
        ) from error
