"""The panels of what was measured layer by layer: alignment, ranks, flow of gradients.

Each function takes the facts of one group of measures and gives its panels by name. Panels that nothing was
measured for are there, too, and empty.
"""

from __future__ import annotations

from collections.abc import Callable

from alignonce.experiments.facts import Fact, Facts
from alignonce.experiments.figures.panels import Panel, Series, dots, lines
from alignonce.experiments.setting import Setting

ALONG_LAYERS = "layer, from input to output"


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
