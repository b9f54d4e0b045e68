"""Figures of what was measured of the trained networks: flow, curvature, generalisation, robustness."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from alignonce.experiments.facts import Facts
from alignonce.experiments.figures.captions import images_text
from alignonce.experiments.figures.layer_panels import flow_panels
from alignonce.experiments.figures.measure_panels import (
    attack_panels,
    corruption_panels,
    curvature_panels,
    generalisation_panels,
    weight_panels,
)
from alignonce.experiments.figures.panels import Panel, Plot
from alignonce.experiments.report.subjects import subjects
from alignonce.experiments.studies.study import Study


def measure_plots(study: Study, facts: Facts) -> Iterator[Plot]:
    """Make the figures of the groups of measures.

    Args:
        study: the study.
        facts: its facts.

    Yields:
        The figures, empty ones where nothing was measured.
    """

    def panels(group: str, make: Callable[[Facts], Iterable[Panel]]) -> tuple[Panel, ...]:
        about = subjects(study, facts.pick(group=group))
        return tuple(
            panel if len(about) == 1 else replace(panel, title=f"{panel.title} · {subject.title}")
            for subject in about
            for panel in make(subject.facts)
        )

    yield Plot(
        "flow",
        "Gradient flow",
        "Norms of the errors that the rule sends back at the end of training, layer by layer. The variance "
        f"over depth of their logarithm is 0 if they neither grow nor fade. {_images(facts, 'flow')}",
        panels("flow", _chosen("errors", "error variance", of=flow_panels)),
    )
    yield Plot(
        "curvature",
        "Curvature of the loss at the solution",
        "Of the training loss, by exact gradients; smaller is flatter. Values of zero or below have no place "
        f"on a logarithmic axis. {_images(facts, 'curvature')}",
        panels("curvature", lambda own: curvature_panels(own).values()),
    )
    yield Plot(
        "generalisation",
        "From training to test images",
        f"At the end of training. {_images(facts, 'generalisation')}",
        panels(
            "generalisation",
            _chosen("accuracy_gap", "loss_gap", "calibration", "unfamiliar", of=generalisation_panels),
        ),
    )
    yield Plot(
        "robustness",
        "Accuracy under attack and under corruption",
        "Attacks within an L-inf radius; a rule can blind the feedback route, so that robustness by it alone "
        f"is none. {_images(facts, 'adversarial')} Corruptions: mean over all kinds; severity 0 is clean. "
        f"{_images(facts, 'corruptions')}",
        panels("adversarial", lambda own: attack_panels(own).values())
        + panels("corruptions", _chosen("severity", of=corruption_panels)),
    )
    yield Plot(
        "weights",
        "Accuracy with imperfect weights",
        f"Forward weights are disturbed after training; mean over draws. {_images(facts, 'weights')}",
        panels("weights", lambda own: weight_panels(own).values()),
    )


def _chosen(*names: str, of: Callable[[Facts], Mapping[str, Panel]]) -> Callable[[Facts], Iterator[Panel]]:
    """Some panels of a group."""

    def make(facts: Facts) -> Iterator[Panel]:
        panels = of(facts)
        yield from (panels[name] for name in names)

    return make


def _images(facts: Facts, group: str) -> str:
    measured = facts.pick(group=group).where(lambda fact: fact.images > 0)
    return f"On {images_text(measured)}." if len(measured) else ""
