"""What the network withstands: corrupted images and adversarial attacks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from alignonce.experiments.facts import Fact
from alignonce.experiments.measures.plan import AnalysisPlan, Step
from alignonce.experiments.measures.subjects import Subject
from alignonce.experiments.setting import Setting
from alignonce.robustness import CORRUPTIONS, adversarial_evaluation, corruption_accuracy

NO_MASKING = "no sign of gradient masking"


def corruption_steps(subject: Subject, plan: AnalysisPlan) -> list[Step]:
    """Measure accuracy under each corruption and severity.

    Args:
        subject: the run.
        plan: the settings.

    Returns:
        The steps, one for each corruption.
    """
    images, labels = subject.examples.test(plan.images_for("corruptions"))

    def take(name: str) -> Iterator[Fact]:
        report = corruption_accuracy(
            subject.model, images, labels, corruptions=(name,), severities=plan.severities, seed=plan.seed
        )
        if name == CORRUPTIONS[0]:
            yield Fact(
                measure="accuracy",
                item="none",
                setting=Setting.of(severity=0),
                images=len(labels),
                value=report.clean_accuracy,
            )
        for row in report.rows:
            yield Fact(
                measure="accuracy",
                item=name,
                setting=Setting.of(severity=row.severity),
                images=len(labels),
                value=row.accuracy,
            )

    return [Step(name.replace("_", " "), partial(take, name)) for name in CORRUPTIONS]


def adversarial_steps(subject: Subject, plan: AnalysisPlan) -> list[Step]:
    """Attack by both routes, by transfer from backpropagation's run, and without gradients.

    The verdict on gradient masking is written in the setting of the rows `masking`: a sentence for each
    finding, with the value 1, or the one sentence that there is none, with the value 0.

    Args:
        subject: the run.
        plan: the settings.

    Returns:
        The one step: findings compare all attacks.
    """
    images, labels = subject.examples.test(plan.images_for("adversarial"))

    def take() -> Iterator[Fact]:
        report = adversarial_evaluation(
            subject.model, images, labels, eps=[value / 255 for value in plan.eps], attacks=plan.attacks,
            source=None if subject.reference is None else subject.reference.model, steps=plan.steps,
            queries=plan.queries, seed=plan.seed,
        )  # fmt: skip
        count = len(labels)
        yield Fact(
            measure="accuracy",
            item="none",
            setting=Setting.of(eps=0),
            images=count,
            value=report.clean_accuracy,
        )
        for row in report.rows:
            setting = Setting.of(route=row.route.replace(" ", "-"), eps=row.eps, norm=row.norm)
            yield Fact(measure="accuracy", item=row.attack, setting=setting, images=count, value=row.accuracy)
        yield Fact(
            measure="unbounded_accuracy",
            item="pgd",
            setting=Setting.of(route="exact"),
            images=count,
            value=report.unbounded_accuracy,
        )
        yield Fact(measure="zero_gradient_share", images=count, value=report.zero_gradient_share)
        for finding in report.findings:
            yield Fact(measure="masking", setting=Setting(remark=finding), images=count, value=1.0)
        if not report.findings:
            yield Fact(measure="masking", setting=Setting(remark=NO_MASKING), images=count, value=0.0)

    return [Step("attacks", take)]
