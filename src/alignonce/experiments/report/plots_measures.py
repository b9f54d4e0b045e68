"""Figures of what was measured of the trained networks: flow, curvature, generalisation, robustness."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from alignonce.experiments.facts import Fact, Facts, Setting
from alignonce.experiments.figures.panels import Panel, Plot, dots, lines
from alignonce.experiments.report.subjects import subjects
from alignonce.experiments.studies.study import Study

_ROUTES = {
    "exact": "exact route",
    "feedback": "feedback route",
    "transfer": "transfer from backpropagation",
    "black-box": "black box",
}
_ATTACKS = {"fgsm": "FGSM", "pgd": "PGD", "apgd": "APGD", "square": "Square"}
_WEIGHTS = {
    "noise": ("Weight noise", "deviation / that of the layer's weights"),
    "quantisation": ("Quantised weights", "bits"),
    "mismatch": ("Device mismatch", "deviation of ln(device factor)"),
    "stuck": ("Dead devices", "share of weights stuck at zero"),
}


def measure_plots(study: Study, facts: Facts) -> Iterator[Plot]:
    """Make the figures of the groups of measures.

    Args:
        study: the study.
        facts: its facts.

    Yields:
        The figures, empty ones where nothing was measured.
    """

    def panels(group: str, make: Callable[[Facts], Iterator[Panel]]) -> tuple[Panel, ...]:
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
        panels("flow", _flow),
    )
    yield Plot(
        "curvature",
        "Curvature of the loss at the solution",
        "Of the training loss, by exact gradients; smaller is flatter. Values of zero or below have no place "
        f"on a logarithmic axis. {_images(facts, 'curvature')}",
        panels("curvature", _curvature),
    )
    yield Plot(
        "generalisation",
        "From training to test images",
        f"At the end of training. {_images(facts, 'generalisation')}",
        panels("generalisation", _generalisation),
    )
    yield Plot(
        "robustness",
        "Accuracy under attack and under corruption",
        "Attacks within an L-inf radius; a rule can blind the feedback route, so that robustness by it alone "
        f"is none. {_images(facts, 'adversarial')} Corruptions: mean over all kinds; severity 0 is clean. "
        f"{_images(facts, 'corruptions')}",
        panels("adversarial", _attacks) + panels("corruptions", _corruptions),
    )
    yield Plot(
        "weights",
        "Accuracy with imperfect weights",
        f"Forward weights are disturbed after training; mean over draws. {_images(facts, 'weights')}",
        panels("weights", _weights),
    )


def _flow(facts: Facts) -> Iterator[Panel]:
    of_rule = facts.having(Setting.of(route="rule"))
    # The diagnostics list layers in the order of the backward pass.
    layers = list(reversed(facts.pick(measure="flow.weight_norms").distinct("item")))
    yield Panel(
        "Errors sent back", "lines", "norm",
        lines(of_rule.pick(measure="flow.input_norms"), lambda fact: layers.index(fact.item) + 1.0),
        along="layer, from input to output", log=True,
    )  # fmt: skip
    variance = of_rule.pick(measure="flow.input_log_variance")
    yield Panel("Unevenness over depth", "dots", "variance of ln(norm)", dots(variance))


def _curvature(facts: Facts) -> Iterator[Panel]:
    leading = facts.pick(measure="eigenvalue").having(Setting.of(rank=1))
    yield Panel("Largest eigenvalue", "dots", "eigenvalue", dots(leading), log=True)
    yield Panel("Trace of the Hessian", "dots", "trace", dots(facts.pick(measure="trace")), log=True)
    for measure, title in (("sharpness", "Sharpness"), ("adaptive_sharpness", "Adaptive sharpness")):
        chosen = facts.pick(measure=measure)
        radius = " or ".join(dict.fromkeys(fact.setting.text("radius") for fact in chosen))
        yield Panel(title, "dots", f"rise of the loss within radius {radius}", dots(chosen), log=True)


def _generalisation(facts: Facts) -> Iterator[Panel]:
    gap, error = facts.pick(measure="accuracy_gap"), facts.pick(measure="calibration_error")
    yield Panel("Gap of accuracy", "dots", "training less test accuracy (points)", dots(gap, 100))
    yield Panel("Gap of the loss", "dots", "test less training loss", dots(facts.pick(measure="loss_gap")))
    yield Panel("Calibration error", "dots", "expected calibration error (%)", dots(error, 100))
    unfamiliar = facts.pick(measure="ood_auroc")
    against = " and ".join(unfamiliar.distinct("item"))
    yield Panel(
        "Telling unfamiliar images", "dots", f"AUROC against {against}", dots(unfamiliar),
        mark=0.5, mark_label="chance",
    )  # fmt: skip


def _attacks(facts: Facts) -> Iterator[Panel]:
    accuracy = facts.pick(measure="accuracy")
    clean = accuracy.pick(item="none")
    for route, route_title in _ROUTES.items():
        by_route = accuracy.having(Setting.of(route=route))
        for attack in by_route.distinct("item"):
            attacked = by_route.pick(item=attack)
            known = set(attacked.distinct("rule"))
            both = [*(fact for fact in clean if fact.rule in known), *attacked]
            yield Panel(
                f"{_ATTACKS.get(attack, attack)}, {route_title}", "lines", "test accuracy (%)",
                lines(both, _radius, 100), along="radius (1/255)",
            )  # fmt: skip


def _radius(fact: Fact) -> float:
    # The setting holds six digits of a multiple of 1/255.
    return round(255 * fact.setting.number("eps"), 3)


def _corruptions(facts: Facts) -> Iterator[Panel]:
    accuracy = lines(facts.pick(measure="accuracy"), lambda fact: fact.setting.number("severity"), 100)
    yield Panel("Corruptions", "lines", "test accuracy (%)", accuracy, along="severity")


def _weights(facts: Facts) -> Iterator[Panel]:
    accuracy = facts.pick(measure="accuracy")
    for kind, (title, along) in _WEIGHTS.items():
        disturbed = accuracy.pick(item=kind)
        # No number of bits means undisturbed weights: there, the clean accuracy has no place.
        start = accuracy.pick(item="none") if len(disturbed) and kind != "quantisation" else ()
        chosen = lines([*start, *disturbed], lambda fact: fact.setting.number("level"), 100)
        yield Panel(title, "lines", "test accuracy (%)", chosen, along=along)


def _images(facts: Facts, group: str) -> str:
    numbers = sorted({fact.images for fact in facts.pick(group=group) if fact.images})
    return f"On {' or '.join(f'{n:,}' for n in numbers)} images." if numbers else ""
