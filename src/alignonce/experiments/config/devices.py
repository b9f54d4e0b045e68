"""Where to compute."""

from __future__ import annotations

from typing import Literal

import torch


def pick_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Choose where to compute.

    Args:
        name: `auto` takes a GPU if there is one.

    Returns:
        The device.

    Raises:
        ValueError: `cuda` is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda: this machine or this build of torch has no CUDA; use auto or cpu")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """Name a device as people know it.

    Args:
        device: the device.

    Returns:
        Such as `cpu`, or the name of the GPU.
    """
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
