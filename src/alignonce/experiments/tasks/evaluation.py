"""The pass over many examples that tests a network and leaves it as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from alignonce.undisturbed import undisturbed

_T = TypeVar("_T")


def over_batches(
    model: nn.Module, measure: Callable[..., _T], batch_size: int, *examples: Tensor
) -> list[_T]:
    """Measure a network batch by batch, in evaluation mode, without gradients.

    Args:
        model: the network.
        measure: runs it on a batch, given a part of each of `examples`.
        batch_size: examples in a batch.
        *examples: such as inputs and targets, (n, ...) each.

    Returns:
        What was measured, by batch.
    """
    batches = zip(*(part.split(batch_size) for part in examples), strict=True)
    with undisturbed(model, "eval"), torch.no_grad():
        return [measure(*batch) for batch in batches]
