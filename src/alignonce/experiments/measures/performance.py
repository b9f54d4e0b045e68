"""What the network does with clean images: beyond its training data, and with imperfect weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch.nn import functional as F

from alignonce.diagnostics import generalisation
from alignonce.experiments.facts import Measured, settings
from alignonce.experiments.measures.material import in_parts
from alignonce.experiments.measures.plan import AnalysisPlan, Step
from alignonce.experiments.measures.subjects import Subject
from alignonce.robustness import (
    DeviceMismatch,
    Quantisation,
    WeightNoise,
    WeightPerturbation,
    weight_accuracy,
)

NOISE_LEVELS = (0.05, 0.1, 0.2, 0.3, 0.5)
BITS = (8, 6, 5, 4, 3, 2)
MISMATCHES = (0.1, 0.2, 0.3, 0.5, 0.8)
STUCK_SHARES = (0.02, 0.05, 0.1, 0.2, 0.3)


def generalisation_steps(subject: Subject, plan: AnalysisPlan) -> list[Step]:
    """Measure the gap between training and test images, calibration, and detection of unfamiliar images.

    Args:
        subject: the run.
        plan: the settings.

    Returns:
        The steps.
    """
    count, material = plan.images_for("generalisation"), subject.material

    def take() -> Iterator[Measured]:
        train, test = material.train(count), material.test(count)
        other, ood = material.unfamiliar(count, plan.seed)
        found = generalisation(
            subject.model, in_parts(train), in_parts(test), F.cross_entropy, ood=in_parts(ood)
        )
        on_train, on_test = len(train[1]), len(test[1])
        yield Measured("train_loss", "", "", on_train, found.train_loss)
        yield Measured("test_loss", "", "", on_test, found.test_loss)
        yield Measured("loss_gap", "", "", on_test, found.loss_gap)
        yield Measured("train_accuracy", "", "", on_train, found.train_accuracy)
        yield Measured("test_accuracy", "", "", on_test, found.test_accuracy)
        yield Measured("accuracy_gap", "", "", on_test, found.accuracy_gap)
        yield Measured("calibration_error", "", "", on_test, found.calibration_error)
        yield Measured("ood_auroc", other, "", on_test + len(ood[1]), found.ood_auroc)

    return [Step("gap, calibration, unfamiliar images", take)]


def weight_steps(subject: Subject, plan: AnalysisPlan) -> list[Step]:
    """Measure accuracy with noisy, quantised and mismatched forward weights.

    Args:
        subject: the run.
        plan: the settings.

    Returns:
        The steps, one for each kind of imperfection.
    """
    images, labels = subject.material.test(plan.images_for("weights"))
    kinds: dict[str, dict[float, WeightPerturbation]] = {
        "none": {0.0: WeightNoise(0.0)},
        "noise": {level: WeightNoise(level) for level in NOISE_LEVELS},
        "quantisation": {float(bits): Quantisation(bits) for bits in BITS},
        "mismatch": {sigma: DeviceMismatch(sigma=sigma) for sigma in MISMATCHES},
        "stuck": {share: DeviceMismatch(stuck_at_zero=share) for share in STUCK_SHARES},
    }
    draws = range(plan.seed, plan.seed + plan.repeats)

    def take(kind: str) -> Iterator[Measured]:
        seeds = draws[:1] if kind == "none" else draws
        levels = {perturbation: level for level, perturbation in kinds[kind].items()}
        for row in weight_accuracy(subject.model, images, labels, list(levels), seeds=seeds):
            setting = settings(level=levels[row.perturbation], draw=row.seed)
            yield Measured("accuracy", kind, setting, len(labels), row.accuracy)

    return [Step(kind, partial(take, kind)) for kind in kinds]
