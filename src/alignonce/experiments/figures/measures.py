"""Figures of what a trained network does: generalisation, imperfect weights, corruptions and attacks."""

from __future__ import annotations

import math
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignonce.experiments.facts import Facts
from alignonce.experiments.figures.captions import images_text
from alignonce.experiments.figures.measure_panels import (
    ATTACKS,
    ROUTES,
    attack_panels,
    corruption_panels,
    generalisation_panels,
    weight_panels,
)
from alignonce.experiments.figures.painting import readable
from alignonce.experiments.figures.panels import Panel, lines
from alignonce.experiments.figures.special_style import (
    LineStyle,
    add_caption,
    add_legend,
    draw_dots,
    draw_lines,
    line_key,
    list_rules,
    new_figure,
)
from alignonce.experiments.figures.style import rule_color, rule_label


def generalisation_figure(table: Facts, about: str) -> Figure:
    """Draw accuracy on training and test images, the gap of the loss, calibration and detection.

    Args:
        table: rows of the group `generalisation`.
        about: what the networks are.

    Returns:
        The figure.
    """
    rules = table.distinct("rule")
    figure = new_figure(1.6 + 0.55 * len(rules))
    accuracy, gap, calibration, detection = figure.subplots(2, 2, sharey=True).flat
    accuracy.set_title("Accuracy: test and training")
    panels = generalisation_panels(table)
    on_test, on_train = panels["test_accuracy"], panels["train_accuracy"]
    for place, rule in enumerate(rules):
        ends = [panel.statistics[rule].mean for panel in (on_test, on_train) if rule in panel.rules]
        if len(ends) == 2:
            accuracy.plot(ends, [place] * 2, color=rule_color(rule), linewidth=1.5)
    draw_dots(accuracy, on_train, rules, None, hollow=True)
    draw_dots(accuracy, on_test, rules, "{:.1f}".format)
    accuracy.set_xlabel("accuracy (%)   (full: test, ring: training)")
    for axes, name in ((gap, "loss_gap"), (calibration, "calibration"), (detection, "unfamiliar")):
        axes.set_title(panels[name].title)
        axes.set_xlabel(panels[name].values)
    draw_dots(gap, panels["loss_gap"], rules, readable, "log")
    draw_dots(calibration, panels["calibration"], rules, "{:.1f}".format)
    draw_dots(detection, panels["unfamiliar"], rules, "{:.2f}".format)
    detection.axvline(0.5, color="#777777", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    detection.set_xlabel(f"{panels['unfamiliar'].values}   (0.5: chance)")
    counts = [images_text(table.pick(measure=f"{part}_loss"), word) for part, word in
              (("train", "training"), ("test", "test"))]  # fmt: skip
    add_caption(figure, f"{about} On {' and '.join(counts)}; calibration in 15 bins.")
    return figure


def weights_figure(table: Facts, about: str) -> Figure:
    """Draw test accuracy with noisy, quantised and mismatched weights.

    Args:
        table: rows of the group `weights`.
        about: what the networks are.

    Returns:
        The figure.
    """
    figure = new_figure(5.0)
    grid = figure.subplots(2, 2, sharey=True)
    for axes, (kind, panel) in zip(grid.flat, weight_panels(table).items(), strict=True):
        axes.set_title(panel.title)
        axes.set_xlabel(panel.along)
        if kind == "quantisation":
            bits = sorted({x for own in panel.series for x in own.x}, reverse=True)
            panel = _beside_undisturbed(panel, table, bits)
            axes.set_xticks(range(1 + len(bits)), ["none", *(f"{b:g}" for b in bits)])
        draw_lines(axes, panel)
    for axes in grid[:, 0]:
        axes.set_ylabel("test accuracy (%)")
    grid[0, 0].set_ylim(0, 100)
    add_legend(figure, table.distinct("rule"))
    draws = len({r.setting.text("draw") for r in table.pick(item="noise")})
    add_caption(figure, f"{about} On {images_text(table, 'test')}; means over {draws} random draws.")
    return figure


def _beside_undisturbed(panel: Panel, table: Facts, bits: list[float]) -> Panel:
    """Quantised weights from many bits to few, after undisturbed ones."""
    place = {level: float(number) for number, level in enumerate([0.0, *bits])}
    both = [*table.pick(item="none"), *table.pick(item="quantisation")]
    return replace(panel, series=lines(both, lambda fact: place[fact.setting.number("level")], 100))


# What is no line here is drawn as PGD and Square are: full, with marks.
_STYLES: dict[str, tuple[LineStyle, str]] = {"fgsm": (":", ""), "apgd": ("--", "s")}


def corruptions_figure(table: Facts, about: str) -> Figure:
    """Draw accuracy by severity, robustness relative to backpropagation, and each corruption's accuracy.

    Args:
        table: rows of the group `corruptions`.
        about: what the networks are.

    Returns:
        The figure.
    """
    rules = table.distinct("rule")
    figure = new_figure(3.2 + 0.58 * len(rules))
    ratio = (1.2 + 0.34 * len(rules), 0.6 + 0.24 * len(rules))
    panels = figure.subplot_mosaic([["severity", "relative"], ["all", "all"]], height_ratios=ratio)
    by_severity, relative, heat = panels["severity"], panels["relative"], panels["all"]
    accuracy, drawn = table.pick(measure="accuracy"), corruption_panels(table)
    by_severity.set_title("Mean over all corruptions")
    draw_lines(by_severity, drawn["severity"])
    by_severity.set_xlabel("severity   (0: clean)")
    by_severity.set_xticks(sorted({int(x) for own in drawn["severity"].series for x in own.x}))
    by_severity.set_ylabel(drawn["severity"].values)
    by_severity.set_ylim(bottom=0)
    of_all, of_added = drawn["mce"], drawn["relative_mce"]
    if of_all.series or of_added.series:
        others = [rule for rule in rules if rule in of_all.rules]
        relative.set_title(of_all.title)
        draw_dots(relative, of_added, others, "{:.2f}".format, hollow=True)
        draw_dots(relative, of_all, others, "{:.2f}".format)
        relative.axvline(1, color="#777777", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        relative.set_xlabel(f"{of_all.values}\n(ring: only those added)")
    else:
        relative.set_visible(False)
    _draw_heat(heat, accuracy, rules)
    add_legend(figure, rules)
    add_caption(figure, f"{about} On {images_text(accuracy, 'test')} for each corruption and severity.")
    return figure


def _draw_heat(axes: Axes, accuracy: Facts, rules: list[str]) -> None:
    names = [name for name in accuracy.distinct("item") if name != "none"]
    columns = ["none", *names]
    place = {name: float(number) for number, name in enumerate(columns)}
    means = Panel("", "lines", "", lines(accuracy, lambda fact: place[fact.item], 100)).means
    values = [[dict(means.get(rule, ())).get(place[name], math.nan) for name in columns] for rule in rules]
    axes.imshow(values, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    for i, line in enumerate(values):
        for j, value in enumerate(line):
            axes.text(
                j, i, f"{value:.0f}", ha="center", va="center", fontsize=7.5,
                color="white" if value < 55 else "black",
            )  # fmt: skip
    list_rules(axes, rules)
    axes.set_ylim(len(rules) - 0.5, -0.5)
    axes.set_xticks(
        range(len(columns)), ["clean", *(name.replace("_", " ") for name in names)], rotation=40, ha="right",
        rotation_mode="anchor",
    )  # fmt: skip
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.set_title("Test accuracy (%), mean over severities")


def adversarial_figure(table: Facts, about: str) -> Figure:
    """Draw accuracy under attack by radius: both routes side by side, transfer, black box.

    Args:
        table: rows of the group `adversarial`.
        about: what the networks are.

    Returns:
        The figure.
    """
    figure = new_figure(3.6)
    panels = attack_panels(table)
    routes = list(dict.fromkeys(route for route, _ in panels))
    grid = figure.subplots(1, len(routes), sharey=True, squeeze=False)[0]
    for axes, route in zip(grid, routes, strict=True):
        own = {attack: panel for (where, attack), panel in panels.items() if where == route}
        for attack, panel in own.items():
            draw_lines(axes, panel, *_STYLES.get(attack, ("-", "o")))
        title = ROUTES[route].removesuffix(" from backpropagation")
        axes.set_title(title[0].upper() + title[1:])
        axes.set_xlabel("radius (1/255)")
        axes.set_xticks(sorted({x for panel in own.values() for run in panel.series for x in run.x}))
    grid[0].set_ylim(-2, 100)
    grid[0].set_ylabel("test accuracy (%)")
    used = list(dict.fromkeys(attack for _, attack in panels))
    full = " or ".join(ATTACKS[name] for name in used if name not in _STYLES)
    extra = [
        line_key(full, "-"),
        *(line_key(ATTACKS[name], _STYLES[name][0]) for name in used if name in _STYLES),
    ]
    add_legend(figure, table.distinct("rule"), extra)
    add_caption(
        figure,
        f"{about} L-inf, on {images_text(table.pick(measure='accuracy'), 'test')}. {masking_words(table)}",
    )
    return figure


def masking_words(table: Facts) -> str:
    """Say for which rules gradient masking was found.

    Args:
        table: rows of the group `adversarial`.

    Returns:
        One to three sentences.
    """
    verdicts = table.pick(measure="masking")
    masked = [rule for rule in table.distinct("rule") if sum(verdicts.pick(rule=rule).values)]
    clear = [rule for rule in verdicts.distinct("rule") if rule not in masked]
    # What is found of the exact route is worse: then its numbers flatter, too.
    misled = [
        rule
        for rule in masked
        if any(r.value and "feedback route" not in r.setting.remark for r in verdicts.pick(rule=rule))
    ]
    words = []
    if blinded := [rule for rule in masked if rule not in misled]:
        words.append(f"The feedback route is masked, not robust: {', '.join(map(rule_label, blinded))}.")
    if misled:
        words.append(
            "Findings on the exact route too, so that all numbers by gradients flatter: "
            f"{', '.join(map(rule_label, misled))}."
        )
    if clear:
        words.append(f"No sign of gradient masking: {', '.join(map(rule_label, clear))}.")
    return " ".join(words)
