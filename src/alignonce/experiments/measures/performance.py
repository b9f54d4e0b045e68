"""What the network does with clean images: beyond its training data, and with imperfect weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch.nn import functional as F

from alignonce.diagnostics import generalisation
from alignonce.experiments.facts import Fact
from alignonce.experiments.measures.example_sets import in_parts
from alignonce.experiments.measures.plan import AnalysisPlan, Step
from alignonce.experiments.measures.subjects import Subject
from alignonce.experiments.setting import Setting
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
    count, examples = plan.images_for("generalisation"), subject.examples

    def take() -> Iterator[Fact]:
        train, test = examples.train(count), examples.test(count)
        other, ood = examples.unfamiliar(count, plan.seed)
        found = generalisation(
            subject.model, in_parts(train), in_parts(test), F.cross_entropy, ood=in_parts(ood)
        )
        on_train, on_test = len(train[1]), len(test[1])
        yield Fact(measure="train_loss", images=on_train, value=found.train_loss)
        yield Fact(measure="test_loss", images=on_test, value=found.test_loss)
        yield Fact(measure="loss_gap", images=on_test, value=found.loss_gap)
        yield Fact(measure="train_accuracy", images=on_train, value=found.train_accuracy)
        yield Fact(measure="test_accuracy", images=on_test, value=found.test_accuracy)
        yield Fact(measure="accuracy_gap", images=on_test, value=found.accuracy_gap)
        yield Fact(measure="calibration_error", images=on_test, value=found.calibration_error)
        yield Fact(measure="ood_auroc", item=other, images=on_test + len(ood[1]), value=found.ood_auroc)

    return [Step("gap, calibration, unfamiliar images", take)]


def weight_steps(subject: Subject, plan: AnalysisPlan) -> list[Step]:
    """Measure accuracy with noisy, quantised and mismatched forward weights.

    Args:
        subject: the run.
        plan: the settings.

    Returns:
        The steps, one for each kind of imperfection.
    """
    images, labels = subject.examples.test(plan.images_for("weights"))
    kinds: dict[str, dict[float, WeightPerturbation]] = {
        "none": {0.0: WeightNoise(0.0)},
        "noise": {level: WeightNoise(level) for level in NOISE_LEVELS},
        "quantisation": {float(bits): Quantisation(bits) for bits in BITS},
        "mismatch": {sigma: DeviceMismatch(sigma=sigma) for sigma in MISMATCHES},
        "stuck": {share: DeviceMismatch(stuck_at_zero=share) for share in STUCK_SHARES},
    }
    draws = range(plan.seed, plan.seed + plan.repeats)

    def take(kind: str) -> Iterator[Fact]:
        seeds = draws[:1] if kind == "none" else draws
        levels = {perturbation: level for level, perturbation in kinds[kind].items()}
        for row in weight_accuracy(subject.model, images, labels, list(levels), seeds=seeds):
            setting = Setting.of(level=levels[row.perturbation], draw=row.seed)
            yield Fact(measure="accuracy", item=kind, setting=setting, images=len(labels), value=row.accuracy)

    return [Step(kind, partial(take, kind)) for kind in kinds]
