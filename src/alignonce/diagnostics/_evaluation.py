"""Loss and accuracy of a model over batches."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alignonce.diagnostics._measuring import Batch, Loss, batch_shares, call


@dataclass(frozen=True)
class Evaluation:
    """Means over all samples."""

    loss: float
    accuracy: float
    """NaN if targets are no class labels."""


@torch.no_grad()
def evaluate(model: nn.Module, batches: Sequence[Batch], loss: Loss) -> Evaluation:
    """Mean loss, which may be infinite or NaN, and accuracy, in the mode that the model is in."""
    return evaluation_of((call(model, inputs) for inputs, _ in batches), batches, loss)


def evaluation_of(outputs: Iterable[Any], batches: Sequence[Batch], loss: Loss) -> Evaluation:
    """As `evaluate`, of outputs that a model has given."""
    total, hits, labels = 0.0, 0, 0
    shares = batch_shares(list(batches))
    for output, (_, targets), share in zip(outputs, batches, shares, strict=True):
        total += share * float(loss(output, targets))
        if (classified := logits_and_labels(output, targets)) is not None:
            hits += int((classified[0].argmax(dim=1) == classified[1]).sum())
            labels += len(classified[1])
    return Evaluation(total, hits / labels if labels else math.nan)


def logits_and_labels(output: object, targets: object) -> tuple[Tensor, Tensor] | None:
    """(n, classes) logits and (n,) labels, if that is what outputs and targets are.

    Outputs may be (N, classes, *) as ``cross_entropy`` takes them, or (N, *, classes) as language models
    give them. Negative labels, which losses ignore, are left out.
    """
    if not isinstance(output, Tensor) or not isinstance(targets, Tensor) or output.dim() < 2:
        return None
    if targets.is_floating_point() or targets.is_complex():
        return None
    if output.shape[:1] + output.shape[2:] == targets.shape:
        output = output.movedim(1, -1)
    elif output.shape[:-1] != targets.shape:
        return None
    logits, labels = output.reshape(-1, output.shape[-1]), targets.reshape(-1)
    return logits[labels >= 0], labels[labels >= 0]
