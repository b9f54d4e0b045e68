"""Accuracy that is left when forward weights are perturbed."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from alignonce.robustness.state import accuracy, evaluating
from alignonce.robustness.weights import Quantisation, WeightPerturbation, perturbed_weights

__all__ = ["WeightAccuracy", "weight_accuracy"]


@dataclass(frozen=True)
class WeightAccuracy:
    """Accuracy in [0, 1] with perturbed weights."""

    perturbation: WeightPerturbation
    seed: int
    accuracy: float


def weight_accuracy(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    perturbations: Sequence[WeightPerturbation],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    batch_size: int = 256,
) -> list[WeightAccuracy]:
    """Measure a model's accuracy under perturbations of its forward weights, such as one at several levels.

    Args:
        model: maps raw pixels (N, C, H, W) to logits (N, classes); its state is left as it was.
        images: pixels in [0, 1], shape (N, C, H, W).
        labels: class numbers, shape (N,).
        perturbations: what to do to the weights, one at a time.
        seeds: each gives a row for each perturbation; quantisation is not random and has one row, seed 0.
        batch_size: images in one forward pass.

    Returns:
        Rows by perturbation, then seed.

    Raises:
        ValueError: if an argument is not as said above, or the model has no forward weights.
    """
    rows = []
    with evaluating(model):
        for perturbation in perturbations:
            for seed in (0,) if isinstance(perturbation, Quantisation) else seeds:
                with perturbed_weights(model, perturbation, seed):
                    rows.append(
                        WeightAccuracy(perturbation, seed, accuracy(model, images, labels, batch_size))
                    )
    return rows
