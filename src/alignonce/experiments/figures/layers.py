"""Figures layer by layer: alignment, ranks, flow of gradients."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignonce.experiments.facts import Facts
from alignonce.experiments.figures.captions import images_text
from alignonce.experiments.figures.layer_panels import (
    ALONG_LAYERS,
    alignment_panels,
    flow_panels,
    layers_in,
    rank_panels,
)
from alignonce.experiments.figures.painting import plain_numbers
from alignonce.experiments.figures.special_style import (
    LineStyle,
    add_caption,
    add_legend,
    draw_dots,
    draw_lines,
    line_key,
    new_figure,
    values_of,
)
from alignonce.experiments.setting import Setting

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
    panels = alignment_panels(table)
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    for axes, panel in zip(grid.flat, panels.values(), strict=True):
        axes.set_title(panel.title)
        draw_lines(axes, panel)
        axes.axhline(90, color="#999999", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0.5)
        axes.set_yticks(range(0, 181, 30))
        axes.set_ylim(-4, 100)
        _number_layers(axes, table, "gradient.weight.angle_deg")
    highest = max((v for panel in panels.values() for v in values_of(panel)), default=90)
    grid[0, 0].set_ylim(-4, max(100.0, highest + 5))
    for axes in grid[1]:
        axes.set_xlabel(ALONG_LAYERS)
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
    panels = rank_panels(table)
    weights, gradients, subspaces = figure.subplots(1, 3)
    weights.set_title(panels["weight"].title)
    weights.set_ylabel(panels["weight"].values)
    draw_lines(weights, panels["weight"])
    gradients.set_title(panels["gradient"].title)
    gradients.set_yscale("log")
    draw_lines(gradients, panels["gradient"])
    plain_numbers(gradients.yaxis, values_of(panels["gradient"]))
    subspaces.set_title(panels["left"].title)
    subspaces.set_ylabel(panels["left"].values)
    for side, line in _SIDES.items():
        draw_lines(subspaces, panels[side], line, "")
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
    panels = flow_panels(table)
    for axes, name, symbol in ((errors, "errors", "‖dx‖"), (weights, "gradients", "‖dW‖")):
        axes.set_title(f"{panels[name].title}, {symbol}")
        axes.set_yscale("log")
        draw_lines(axes, panels[name])
        plain_numbers(axes.yaxis, values_of(panels[name]))
        axes.set_ylabel("norm over the batch")
    singular.set_title(panels["exact"].title)
    singular.set_yscale("log")
    singular.set_ylabel(panels["exact"].values)
    draw_lines(singular, panels["exact"])
    draw_lines(singular, panels["feedback"], ":", "")
    plain_numbers(singular.yaxis, values_of(panels["exact"]))
    for axes in (errors, weights, singular):
        _number_layers(axes, table, "flow.weight_norms", backwards=True)
        axes.set_xlabel(ALONG_LAYERS)
    variance.set_title("Variance over depth")
    rules = table.distinct("rule")
    of_errors, of_weights = panels["error variance"], panels["gradient variance"]
    both = [*values_of(of_errors), *values_of(of_weights)]
    if both and min(both) > 0:
        variance.set_xscale("log")
        plain_numbers(variance.xaxis, both)
    draw_dots(variance, of_errors, rules, form=None)
    draw_dots(variance, of_weights, rules, form=None, hollow=True)
    variance.set_xlabel("variance of ln norm   (full: dx, ring: dW)")
    sides = [line_key("of W", "-"), line_key("of B", ":")]
    add_legend(figure, rules, sides)
    add_caption(
        figure, f"{about} Under each rule's own backward pass, on {images_text(of_rule, 'training')}."
    )
    return figure


def _number_layers(axes: Axes, table: Facts, measure: str, backwards: bool = False) -> None:
    count = len(layers_in(table, measure, backwards))
    step = 1 if count <= 6 else 2 if count <= 14 else max(1, count // 6)
    axes.set_xticks(range(1, count + 1, step))
