"""Layer by layer: alignment of weights, signals and gradients, ranks, and the flow of gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch.nn import functional as F

from alignonce.diagnostics import (
    compare_gradients,
    effective_ranks,
    functional_alignment,
    gradient_flow,
    layer_singular_values,
    rows_of,
    subspace_alignment,
    weight_alignment,
)
from alignonce.experiments.facts import Fact
from alignonce.experiments.measures.plan import AnalysisPlan, Step
from alignonce.experiments.measures.subjects import Subject
from alignonce.experiments.setting import NO_SETTING, Setting
from alignonce.model_access import exact_gradients

_SUBSPACE = 10
"""Dimension of the leading subspaces whose angles are measured."""
_SINGULAR_VALUES = 10


def alignment_steps(subject: Subject, plan: AnalysisPlan) -> list[Step]:
    """Measure how near a rule comes to backpropagation: weights, signals, gradients, subspaces.

    Args:
        subject: the run.
        plan: the settings.

    Returns:
        The steps.
    """
    model, batch = subject.model, subject.examples.train(plan.images_for("alignment"))
    images = len(batch[1])

    def of_weights() -> Iterator[Fact]:
        yield from as_rows("weight", weight_alignment(model), 0)
        yield from as_rows(
            "subspace", subspace_alignment(model, _SUBSPACE), 0, Setting.of(dimension=_SUBSPACE)
        )

    steps = [
        Step(
            "gradients", lambda: as_rows("gradient", compare_gradients(model, batch, F.cross_entropy), images)
        ),
        Step("ranks", lambda: as_rows("rank", effective_ranks(model, batch, F.cross_entropy), images)),
    ]
    if subject.has_feedback:
        signals = Step(
            "signals", lambda: as_rows("signal", functional_alignment(model, batch, F.cross_entropy), images)
        )
        steps = [Step("weights", of_weights), signals, *steps]
    return steps


def flow_steps(subject: Subject, plan: AnalysisPlan) -> list[Step]:
    """Measure how large errors and updates are in each layer, under the rule and with exact gradients.

    Args:
        subject: the run.
        plan: the settings.

    Returns:
        The steps.
    """
    model, batch = subject.model, subject.examples.train(plan.images_for("flow"))
    images = len(batch[1])

    def of_rule() -> Iterable[Fact]:
        return as_rows("flow", gradient_flow(model, batch, F.cross_entropy), images, Setting.of(route="rule"))

    def exact() -> Iterable[Fact]:
        with exact_gradients(model):
            found = gradient_flow(model, batch, F.cross_entropy)
        return as_rows("flow", found, images, Setting.of(route="exact"))

    def jacobians() -> Iterable[Fact]:
        found = layer_singular_values(model, batch, F.cross_entropy, _SINGULAR_VALUES, plan.seed)
        return as_rows("singular_value", found, images)

    return [Step("norms", of_rule), Step("exact norms", exact), Step("singular values", jacobians)]


def as_rows(measure: str, result: Any, images: int, setting: Setting = NO_SETTING) -> list[Fact]:
    """Turn a result of the diagnostics into facts; layers become items.

    Args:
        measure: what its names begin with.
        result: a number, or a nest of dataclasses, mappings and sequences of numbers.
        images: that it was measured on.
        setting: that it was measured with.

    Returns:
        The facts.
    """
    found = map(Fact.of_row, rows_of(0, measure, result))
    return [fact._replace(setting=setting, images=images, step=None) for fact in found]
