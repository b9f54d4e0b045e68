"""Figures layer by layer: alignment, ranks, flow of gradients."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignonce.experiments.facts import Fact, Facts, Setting
from alignonce.experiments.figures.painting import plain_numbers
from alignonce.experiments.figures.special_style import (
    LineStyle,
    add_caption,
    add_legend,
    draw_dots,
    draw_lines,
    images_text,
    line_key,
    new_figure,
)

_SIDES: dict[str, LineStyle] = {"left": "-", "right": ":"}


def alignment_figure(table: Facts, about: str) -> Figure:
    """Draw the angles between a rule and backpropagation in each layer: of weights, signals, gradients.

    Args:
        table: rows of the group `alignment`.
        about: what the networks are.

    Returns:
        The figure.
    """
    figure = new_figure(5.4)
    panels = {
        "weight.angle_deg": "Weights: W and B",
        "signal.angle_deg": "Signals: W and B on the errors",
        "gradient.weight.angle_deg": "Weight gradients: rule and exact",
        "gradient.input.angle_deg": "Errors sent back: rule and exact",
    }
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    place = _places(table, "gradient.weight.angle_deg")
    for axes, (measure, title) in zip(grid.flat, panels.items(), strict=True):
        axes.set_title(title)
        draw_lines(axes, table.pick(measure=measure), place)
        axes.axhline(90, color="#999999", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0.5)
        axes.set_yticks(range(0, 181, 30))
        axes.set_ylim(-4, 100)
        _number_layers(axes, table, "gradient.weight.angle_deg")
    highest = max((v for m in panels for v in table.pick(measure=m).values if v <= 180), default=90)
    grid[0, 0].set_ylim(-4, max(100.0, highest + 5))
    for axes in grid[1]:
        axes.set_xlabel("layer, from input to output")
    for axes in grid[:, 0]:
        axes.set_ylabel("angle (degrees)")
    add_legend(figure, table.distinct("rule"))
    images = images_text(table.pick(measure="gradient.total.cosine"), "training")
    add_caption(
        figure,
        f"{about} All but the weights on {images}. "
        "90 degrees: nothing in common. Layer 1's errors go to the pixels: training does not use them.",
    )
    return figure


def rank_figure(table: Facts, about: str) -> Figure:
    """Draw effective ranks, and the angles between the leading subspaces of W and B.

    Args:
        table: rows of the group `alignment`.
        about: what the networks are.

    Returns:
        The figure.
    """
    figure = new_figure(3.1)
    place = _places(table, "rank.weight")
    weights, gradients, subspaces = figure.subplots(1, 3)
    weights.set_title("Rank of W")
    weights.set_ylabel("effective rank")
    draw_lines(weights, table.pick(measure="rank.weight"), place)
    gradients.set_title("Rank of dW")
    gradients.set_yscale("log")
    draw_lines(gradients, table.pick(measure="rank.gradient"), place)
    plain_numbers(gradients.yaxis, table.pick(measure="rank.gradient").values)
    subspaces.set_title("Subspaces of W and B")
    subspaces.set_ylabel("mean angle (degrees)")
    for side, line in _SIDES.items():
        rows = Facts(fact for fact in table if fact.measure.startswith(f"subspace.{side}."))
        draw_lines(subspaces, rows, place, line, "")
    subspaces.set_ylim(-3, 93)
    subspaces.set_yticks(range(0, 91, 30))
    for axes in (weights, gradients, subspaces):
        _number_layers(axes, table, "rank.weight")
        axes.set_xlabel("layer, input to output")
    sides = [line_key("output side", "-"), line_key("input side", ":")]
    add_legend(figure, table.distinct("rule"), sides)
    words = f"{about} dW on {images_text(table.pick(measure='rank.gradient'), 'training')}."
    if row := next((row for row in table if row.measure.startswith("subspace.")), None):
        words += (
            f" Subspaces of the {row.setting.text('dimension')} leading singular vectors; a layer with no "
            "more outputs has the angle 0."
        )
    add_caption(figure, words)
    return figure


def flow_figure(table: Facts, about: str) -> Figure:
    """Draw the norms of errors and of weight gradients in each layer, and how much they vary over depth.

    Args:
        table: rows of the group `flow`.
        about: what the networks are.

    Returns:
        The figure.
    """
    figure = new_figure(5.6)
    errors, weights, variance, singular = figure.subplots(2, 2).flat
    of_rule = table.pick(setting=Setting.of(route="rule"))
    place = _places(table, "flow.weight_norms", backwards=True)
    for axes, name, title in (
        (errors, "input", "Errors sent back, ‖dx‖"),
        (weights, "weight", "Weight gradients, ‖dW‖"),
    ):
        axes.set_title(title)
        axes.set_yscale("log")
        draw_lines(axes, of_rule.pick(measure=f"flow.{name}_norms"), place)
        plain_numbers(axes.yaxis, of_rule.pick(measure=f"flow.{name}_norms").values)
        axes.set_ylabel("norm over the batch")
    singular.set_title("Largest singular value, W and B")
    singular.set_yscale("log")
    singular.set_ylabel("singular value")
    draw_lines(singular, table.pick(measure="singular_value.exact.0"), place)
    draw_lines(singular, table.pick(measure="singular_value.feedback.0"), place, ":", "")
    plain_numbers(singular.yaxis, table.pick(measure="singular_value.exact.0").values)
    for axes in (errors, weights, singular):
        _number_layers(axes, table, "flow.weight_norms", backwards=True)
        axes.set_xlabel("layer, from input to output")
    variance.set_title("Variance over depth")
    rules = table.distinct("rule")
    both = of_rule.where(lambda fact: fact.measure.endswith("log_variance"))
    if both.values and min(both.values) > 0:
        variance.set_xscale("log")
        plain_numbers(variance.xaxis, both.values)
    draw_dots(variance, both.pick(measure="flow.input_log_variance"), rules, form=None)
    draw_dots(variance, both.pick(measure="flow.weight_log_variance"), rules, form=None, hollow=True)
    variance.set_xlabel("variance of ln norm   (full: dx, ring: dW)")
    sides = [line_key("of W", "-"), line_key("of B", ":")]
    add_legend(figure, rules, sides)
    add_caption(
        figure, f"{about} Under each rule's own backward pass, on {images_text(of_rule, 'training')}."
    )
    return figure


def _layers(table: Facts, measure: str, backwards: bool = False) -> list[str]:
    layers = table.pick(measure=measure).distinct("item")
    return layers[::-1] if backwards else layers


def _places(table: Facts, measure: str, backwards: bool = False) -> Callable[[Fact], float]:
    """Number the layers from the input on."""
    number = {layer: n for n, layer in enumerate(_layers(table, measure, backwards), start=1)}
    return lambda row: number.get(row.item, len(number))


def _number_layers(axes: Axes, table: Facts, measure: str, backwards: bool = False) -> None:
    count = len(_layers(table, measure, backwards))
    step = 1 if count <= 6 else 2 if count <= 14 else max(1, count // 6)
    axes.set_xticks(range(1, count + 1, step))
