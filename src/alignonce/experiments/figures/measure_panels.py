"""The panels of what was measured of whole networks: the same for an analysis and for a report.

Each function takes the facts of one group of measures and gives its panels by name. Panels that nothing was
measured for are there, too, and empty.
"""

from __future__ import annotations

from alignonce.experiments.facts import Fact, Facts
from alignonce.experiments.figures.panels import Panel, dots, lines
from alignonce.experiments.setting import Setting

ROUTES = {
    "exact": "exact route",
    "feedback": "feedback route",
    "transfer": "transfer from backpropagation",
    "black-box": "black box",
}
ATTACKS = {"fgsm": "FGSM", "pgd": "PGD", "apgd": "APGD", "square": "Square"}
_PERTURBED = {
    "noise": ("Weight noise", "deviation / that of the layer's weights"),
    "quantisation": ("Quantised weights", "bits"),
    "mismatch": ("Device mismatch", "deviation of ln(device factor)"),
    "stuck": ("Dead devices", "share of weights stuck at zero"),
}


def curvature_panels(facts: Facts) -> dict[str, Panel]:
    """The largest eigenvalue, the trace and both kinds of sharpness.

    Args:
        facts: of the group `curvature`.

    Returns:
        The panels `eigenvalue`, `trace`, `sharpness`, `adaptive_sharpness`.
    """

    def panel(title: str, values: str, measured: Facts) -> Panel:
        return Panel(title, "dots", values, dots(measured), log=True)

    def sharpness(measure: str, title: str) -> Panel:
        measured = facts.pick(measure=measure)
        radius = " or ".join(dict.fromkeys(fact.setting.text("radius") for fact in measured))
        return panel(title, f"rise of the loss within radius {radius}", measured)

    largest = facts.pick(measure="eigenvalue").having(Setting.of(rank=1))
    return {
        "eigenvalue": panel("Largest eigenvalue", "eigenvalue", largest),
        "trace": panel("Trace of the Hessian", "trace", facts.pick(measure="trace")),
        "sharpness": sharpness("sharpness", "Sharpness"),
        "adaptive_sharpness": sharpness("adaptive_sharpness", "Adaptive sharpness"),
    }


def line_panels(facts: Facts) -> dict[str, Panel]:
    """Loss and accuracy on the straight line between two rules' solutions.

    Args:
        facts: of the group `landscape`.

    Returns:
        The panels `loss`, `accuracy`.
    """

    def place(fact: Fact) -> float:
        return fact.setting.number("alpha")

    loss, accuracy = (facts.pick(measure=f"line_{name}") for name in ("loss", "accuracy"))
    return {
        "loss": Panel("Loss between solutions", "lines", "training loss", lines(loss, place), log=True),
        "accuracy": Panel(
            "Accuracy between solutions", "lines", "training accuracy (%)", lines(accuracy, place, 100)
        ),
    }


def generalisation_panels(facts: Facts) -> dict[str, Panel]:
    """Accuracy on training and test images, gaps, calibration and detection.

    Args:
        facts: of the group `generalisation`.

    Returns:
        The panels `train_accuracy`, `test_accuracy`, `accuracy_gap`, `loss_gap`, `calibration`, `unfamiliar`.
    """

    def panel(title: str, values: str, measure: str, scale: float = 1.0) -> Panel:
        return Panel(title, "dots", values, dots(facts.pick(measure=measure), scale))

    unfamiliar = facts.pick(measure="ood_auroc")
    return {
        "train_accuracy": panel("Accuracy: training", "accuracy (%)", "train_accuracy", 100),
        "test_accuracy": panel("Accuracy: test", "accuracy (%)", "test_accuracy", 100),
        "accuracy_gap": panel(
            "Gap of accuracy", "training less test accuracy (points)", "accuracy_gap", 100
        ),
        "loss_gap": panel("Gap of the loss", "test less training loss", "loss_gap"),
        "calibration": panel(
            "Calibration error", "expected calibration error (%)", "calibration_error", 100
        ),
        "unfamiliar": Panel(
            "Telling unfamiliar images", "dots", f"AUROC against {' and '.join(unfamiliar.distinct('item'))}",
            dots(unfamiliar), mark=0.5, mark_label="chance",
        ),
    }  # fmt: skip


def attack_panels(facts: Facts) -> dict[tuple[str, str], Panel]:
    """Accuracy under attack by radius, from the clean accuracy on.

    Args:
        facts: of the group `adversarial`.

    Returns:
        A panel for each route and attack that there are numbers of.
    """
    accuracy = facts.pick(measure="accuracy")
    clean = accuracy.pick(item="none")
    panels = {}
    for route, route_title in ROUTES.items():
        by_route = accuracy.having(Setting.of(route=route))
        for attack in by_route.distinct("item"):
            attacked = by_route.pick(item=attack)
            known = set(attacked.distinct("rule"))
            both = [*(fact for fact in clean if fact.rule in known), *attacked]
            panels[route, attack] = Panel(
                f"{ATTACKS.get(attack, attack)}, {route_title}", "lines", "test accuracy (%)",
                lines(both, _radius, 100), along="radius (1/255)",
            )  # fmt: skip
    return panels


def _radius(fact: Fact) -> float:
    # The setting holds six digits of a multiple of 1/255.
    return round(255 * fact.setting.number("eps"), 3)


def corruption_panels(facts: Facts) -> dict[str, Panel]:
    """Accuracy by severity, and errors relative to backpropagation's.

    Args:
        facts: of the group `corruptions`.

    Returns:
        The panels `severity`, `mce`, `relative_mce`.
    """
    accuracy = lines(facts.pick(measure="accuracy"), lambda fact: fact.setting.number("severity"), 100)
    return {
        "severity": Panel("Corruptions", "lines", "test accuracy (%)", accuracy, along="severity"),
        **{
            name: Panel(
                "Relative to backpropagation", "dots", "errors / those of backpropagation",
                dots(facts.pick(measure=name, item="")), mark=1, mark_label="backpropagation",
            )
            for name in ("mce", "relative_mce")
        },
    }  # fmt: skip


def weight_panels(facts: Facts) -> dict[str, Panel]:
    """Accuracy with noisy, quantised and mismatched weights.

    Args:
        facts: of the group `weights`.

    Returns:
        The panels `noise`, `quantisation`, `mismatch`, `stuck`.
    """
    accuracy = facts.pick(measure="accuracy")
    panels = {}
    for kind, (title, along) in _PERTURBED.items():
        disturbed = accuracy.pick(item=kind)
        # No number of bits means undisturbed weights: there, the clean accuracy has no place.
        start = accuracy.pick(item="none") if len(disturbed) and kind != "quantisation" else ()
        chosen = lines([*start, *disturbed], lambda fact: fact.setting.number("level"), 100)
        panels[kind] = Panel(title, "lines", "test accuracy (%)", chosen, along=along)
    return panels


def checkpoint_panels(facts: Facts) -> list[Panel]:
    """Measures over the steps of training.

    Args:
        facts: of checkpoints.

    Returns:
        Six panels.
    """
    # The last layer's gradient is exact under every rule; the first layer's signal goes to the pixels.
    gradients, signals = facts.pick(measure="gradient.weight.angle_deg"), facts.pick(measure="signal.cosine")
    last, first = gradients.distinct("item")[-1:], signals.distinct("item")[:1]
    measured = {
        "Largest Hessian eigenvalue": facts.pick(measure="eigenvalue").having(Setting.of(rank=1)),
        "Trace of the Hessian": facts.pick(measure="trace"),
        "Angle of gradients (°)": gradients.where(lambda fact: fact.item not in last),
        "Cosine of signals": signals.where(lambda fact: fact.item not in first),
        "Variance of ln ‖dx‖": facts.pick(measure="flow.input_log_variance"),
        "Variance of ln ‖dW‖": facts.pick(measure="flow.weight_log_variance"),
    }
    return [
        Panel(
            title, "lines", title, lines(chosen, lambda fact: float(fact.step or 0)), along="step",
            log="Hessian" in title and len(chosen) > 0 and min(chosen.values) > 0,
        )
        for title, chosen in measured.items()
    ]  # fmt: skip
