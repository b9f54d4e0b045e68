"""What a model does on data that it has not learnt from: gap, calibration, out-of-distribution detection."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alignonce.diagnostics._evaluation import evaluate, evaluation_of, logits_and_labels
from alignonce.diagnostics._measuring import Batch, Loss, call, check_batches, check_model
from alignonce.undisturbed import undisturbed

__all__ = ["Generalisation", "auroc", "expected_calibration_error", "generalisation"]


@dataclass(frozen=True)
class Generalisation:
    """How a model does beyond its training data. What needs class labels is NaN without them."""

    train_loss: float
    test_loss: float
    train_accuracy: float
    test_accuracy: float
    calibration_error: float
    """On the test data, in [0, 1]."""
    ood_auroc: float
    """Of telling test data from other data by confidence, in [0, 1], 0.5 by chance; NaN without any."""

    @property
    def loss_gap(self) -> float:
        """Test loss less training loss."""
        return self.test_loss - self.train_loss

    @property
    def accuracy_gap(self) -> float:
        """Training accuracy less test accuracy."""
        return self.train_accuracy - self.test_accuracy


def generalisation(
    model: nn.Module,
    train: Iterable[Batch],
    test: Iterable[Batch],
    loss: Loss,
    *,
    ood: Iterable[Batch] | None = None,
    bins: int = 15,
) -> Generalisation:
    """Measure gap, calibration and out-of-distribution detection, in eval mode.

    Args:
        model: any model; for calibration and detection, one that returns logits.
        train: (inputs, targets) pairs that the model has learnt from.
        test: pairs that it has not.
        loss: takes the model's output and the targets, returns the mean over the batch.
        ood: pairs from another distribution; their targets are not used.
        bins: of the calibration error.

    Returns:
        All of these measures.

    Raises:
        ValueError: if there are no samples, a loss is not finite, bins is not positive, or ``ood`` is given
            for a model without (n, classes) logits.
    """
    model = check_model(model)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    with undisturbed(model, "eval"), torch.no_grad():
        train, test = check_batches(train), check_batches(test)
        outputs = [call(model, inputs) for inputs, _ in test]
        on_train, on_test = evaluate(model, train, loss), evaluation_of(outputs, test, loss)
        for name, value in {"training": on_train.loss, "test": on_test.loss}.items():
            if not math.isfinite(value):
                raise ValueError(f"the loss on the {name} data is {value}")
        calibration_error = ood_auroc = math.nan
        classified = [
            logits_and_labels(output, targets) for output, (_, targets) in zip(outputs, test, strict=True)
        ]
        pairs = [pair for pair in classified if pair is not None]
        if len(pairs) == len(classified):
            logits = torch.cat([pair[0] for pair in pairs])
            labels = torch.cat([pair[1] for pair in pairs])
            calibration_error = expected_calibration_error(_softmax(logits), labels, bins)
        if ood is not None:
            others = [call(model, inputs) for inputs, _ in check_batches(ood)]
            ood_auroc = auroc(_confidence(outputs), _confidence(others))
    return Generalisation(
        on_train.loss, on_test.loss, on_train.accuracy, on_test.accuracy, calibration_error, ood_auroc
    )


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Mean distance between confidence and accuracy, over bins of equal width, weighted by their samples.

    Source: Guo, Pleiss, Sun & Weinberger 2017, arXiv 1706.04599, equation 3.

    Args:
        probabilities: (n, classes), each row summing to 1.
        labels: (n,) class indices.
        bins: of the confidence, from 0 to 1, each with its upper and without its lower edge.

    Returns:
        In [0, 1].

    Raises:
        ValueError: if there are no samples, shapes do not fit or probabilities are none.
    """
    if probabilities.dim() != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise ValueError(
            "probabilities must be (n, classes) and labels (n,) with n > 0, got "
            f"{tuple(probabilities.shape)} and {tuple(labels.shape)}"
        )
    probabilities = probabilities.detach().to("cpu", torch.float64)
    if not ((probabilities.sum(dim=1) - 1).abs() < 1e-3).all():
        raise ValueError("the rows of probabilities must sum to 1: apply softmax to logits first")
    confidence, prediction = probabilities.max(dim=1)
    correct = (prediction == labels.cpu()).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    index = torch.bucketize(confidence, edges[1:-1])
    # |accuracy - confidence| of a bin times its share of samples is |sum of the differences| / n.
    differences = torch.zeros(bins, dtype=torch.float64).index_add_(0, index, correct - confidence)
    return float(differences.abs().sum()) / len(labels)


def auroc(positive: Tensor, negative: Tensor) -> float:
    """Probability that a positive's score is above a negative's, ties counting half.

    Source: Hendrycks & Gimpel 2017, arXiv 1610.02136, section 2, with the largest softmax probability as the
    score of in- (positive) and out-of-distribution samples (negative).

    Args:
        positive: (n,) scores.
        negative: (m,) scores.

    Returns:
        Area under the receiver operating characteristic, in [0, 1].

    Raises:
        ValueError: if one of them is empty or holds NaN.
    """
    positive, negative = (t.detach().reshape(-1).to("cpu", torch.float64) for t in (positive, negative))
    if not positive.numel() or not negative.numel():
        raise ValueError("scores of both kinds are needed")
    if positive.isnan().any() or negative.isnan().any():
        raise ValueError("scores hold NaN")
    ordered = negative.sort().values
    below = torch.searchsorted(ordered, positive, right=False)
    not_above = torch.searchsorted(ordered, positive, right=True)
    return float((below + not_above).double().mean()) / (2 * negative.numel())


def _confidence(outputs: list[Any]) -> Tensor:
    for output in outputs:
        if not isinstance(output, Tensor) or output.dim() != 2:
            raise ValueError("out-of-distribution detection needs a model that returns (n, classes) logits")
    return _softmax(torch.cat(outputs)).max(dim=1).values


def _softmax(logits: Tensor) -> Tensor:
    return logits.detach().to("cpu", torch.float64).softmax(dim=1)
