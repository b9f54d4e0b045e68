"""The panels of what was measured of trained networks: the same for an analysis and for a report.

Each function takes the facts of one group of measures and gives its panels by name. Panels that nothing was
measured for are there, too, and empty.
"""

from __future__ import annotations

from collections.abc import Callable

from alignonce.experiments.facts import Fact, Facts, Setting
from alignonce.experiments.figures.panels import Panel, Series, dots, lines

ALONG_LAYERS = "layer, from input to output"
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


def alignment_panels(facts: Facts) -> dict[str, Panel]:
    """Angles between a rule and backpropagation in each layer.

    Args:
        facts: of the group `alignment`.

    Returns:
        The panels `weight`, `signal`, `gradient`, `error`.
    """
    measures = {
        "weight": ("weight.angle_deg", "Weights: W and B"),
        "signal": ("signal.angle_deg", "Signals: W and B on the errors"),
        "gradient": ("gradient.weight.angle_deg", "Weight gradients: rule and exact"),
        "error": ("gradient.input.angle_deg", "Errors sent back: rule and exact"),
    }
    place = layer_place(facts, "gradient.weight.angle_deg")
    return {
        name: Panel(
            title, "lines", "angle (degrees)", lines(facts.pick(measure=measure), place), along=ALONG_LAYERS,
            mark=90, mark_label="orthogonal",
        )
        for name, (measure, title) in measures.items()
    }  # fmt: skip


def rank_panels(facts: Facts) -> dict[str, Panel]:
    """Effective ranks, and the angles between the leading subspaces of W and B.

    Args:
        facts: of the group `alignment`.

    Returns:
        The panels `weight`, `gradient`, and of subspaces `left`, `right`.
    """
    place = layer_place(facts, "rank.weight")

    def panel(title: str, values: str, series: tuple[Series, ...], log: bool = False) -> Panel:
        return Panel(title, "lines", values, series, along=ALONG_LAYERS, log=log)

    ranks = {name: lines(facts.pick(measure=f"rank.{name}"), place) for name in ("weight", "gradient")}
    sides = {
        side: lines((f for f in facts if f.measure.startswith(f"subspace.{side}.")), place)
        for side in ("left", "right")
    }
    return {
        "weight": panel("Rank of W", "effective rank", ranks["weight"]),
        "gradient": panel("Rank of dW", "effective rank", ranks["gradient"], log=True),
        **{
            side: panel("Subspaces of W and B", "mean angle (degrees)", series)
            for side, series in sides.items()
        },
    }


def flow_panels(facts: Facts) -> dict[str, Panel]:
    """Norms of errors and of weight gradients in each layer, how they vary over depth, singular values.

    Args:
        facts: of the group `flow`.

    Returns:
        The panels `errors`, `gradients`, `exact`, `feedback` (singular values), and of dots
        `error variance`, `gradient variance`.
    """
    of_rule = facts.having(Setting.of(route="rule"))
    # The diagnostics list layers in the order of the backward pass.
    place = layer_place(facts, "flow.weight_norms", backwards=True)

    def by_layer(title: str, values: str, measured: Facts) -> Panel:
        return Panel(title, "lines", values, lines(measured, place), along=ALONG_LAYERS, log=True)

    def variance(of: str) -> Panel:
        measured = of_rule.pick(measure=f"flow.{of}_log_variance")
        return Panel("Unevenness over depth", "dots", "variance of ln(norm)", dots(measured))

    def singular(route: str) -> Panel:
        measured = facts.pick(measure=f"singular_value.{route}.0")
        return by_layer("Largest singular value, W and B", "singular value", measured)

    return {
        "errors": by_layer("Errors sent back", "norm", of_rule.pick(measure="flow.input_norms")),
        "gradients": by_layer("Weight gradients", "norm", of_rule.pick(measure="flow.weight_norms")),
        "exact": singular("exact"),
        "feedback": singular("feedback"),
        "error variance": variance("input"),
        "gradient variance": variance("weight"),
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


def layers_in(facts: Facts, measure: str, backwards: bool = False) -> list[str]:
    """List the layers that a measure was taken of.

    Args:
        facts: of one group.
        measure: its name.
        backwards: whether it was taken from the output on.

    Returns:
        The layers, from input to output.
    """
    layers = facts.pick(measure=measure).distinct("item")
    return layers[::-1] if backwards else layers


def layer_place(facts: Facts, measure: str, backwards: bool = False) -> Callable[[Fact], float]:
    """Number the layers from the input on.

    Args:
        facts: of one group.
        measure: one that was taken of all layers.
        backwards: whether it was taken from the output on.

    Returns:
        The place of a fact's layer, from 1.
    """
    number = {layer: float(n) for n, layer in enumerate(layers_in(facts, measure, backwards), start=1)}
    return lambda fact: number.get(fact.item, float(len(number)))
