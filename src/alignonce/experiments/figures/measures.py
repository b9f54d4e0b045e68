"""Figures of what a trained network does: generalisation, imperfect weights, corruptions and attacks."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignonce.experiments.facts import Fact, Facts, Setting
from alignonce.experiments.figures.painting import readable
from alignonce.experiments.figures.special_style import (
    LineStyle,
    add_caption,
    add_legend,
    as_percent,
    draw_dots,
    draw_lines,
    images_text,
    line_key,
    list_rules,
    new_figure,
    series,
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
    on_test, on_train = (as_percent(table.pick(measure=f"{part}_accuracy")) for part in ("test", "train"))
    for place, rule in enumerate(rules):
        ends = [series(rows.pick(rule=rule), lambda row: 0.0)[1] for rows in (on_test, on_train)]
        if all(ends):
            accuracy.plot([e[0] for e in ends], [place] * 2, color=rule_color(rule), linewidth=1.5)
    draw_dots(accuracy, on_train, rules, None, hollow=True)
    draw_dots(accuracy, on_test, rules, "{:.1f}".format)
    accuracy.set_xlabel("accuracy (%)   (full: test, ring: training)")
    gap.set_title("Gap of the loss")
    draw_dots(gap, table.pick(measure="loss_gap"), rules, readable, "log")
    gap.set_xlabel("test loss less training loss")
    calibration.set_title("Calibration error")
    draw_dots(calibration, as_percent(table.pick(measure="calibration_error")), rules, "{:.1f}".format)
    calibration.set_xlabel("expected calibration error (%)")
    unfamiliar = table.pick(measure="ood_auroc")
    detection.set_title("Telling unfamiliar images")
    draw_dots(detection, unfamiliar, rules, "{:.2f}".format)
    detection.axvline(0.5, color="#777777", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    detection.set_xlabel(f"AUROC against {' and '.join(unfamiliar.distinct('item'))}   (0.5: chance)")
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
    percent = as_percent(table)
    bits = sorted({_level(r) for r in percent.pick(item="quantisation")}, reverse=True)
    panels = {
        "noise": ("Weight noise", "deviation / that of the layer's weights"),
        "quantisation": ("Quantised weights", "bits"),
        "mismatch": ("Device mismatch", "deviation of ln(device factor)"),
        "stuck": ("Dead devices", "share of weights stuck at zero (%)"),
    }
    for axes, (kind, (title, label)) in zip(grid.flat, panels.items(), strict=True):
        axes.set_title(title)
        axes.set_xlabel(label)
        rows = Facts([*percent.pick(item="none"), *percent.pick(item=kind)])
        if kind == "quantisation":
            draw_lines(axes, rows, lambda row: ([0.0, *bits]).index(_level(row)))
            axes.set_xticks(range(1 + len(bits)), ["none", *(f"{b:g}" for b in bits)])
        elif kind == "stuck":
            draw_lines(axes, rows, lambda row: 100 * _level(row))
        else:
            draw_lines(axes, rows, _level)
    for axes in grid[:, 0]:
        axes.set_ylabel("test accuracy (%)")
    grid[0, 0].set_ylim(0, 100)
    add_legend(figure, table.distinct("rule"))
    draws = len({r.setting.text("draw") for r in table.pick(item="noise")})
    add_caption(figure, f"{about} On {images_text(table, 'test')}; means over {draws} random draws.")
    return figure


def _level(row: Fact) -> float:
    return row.setting.number("level")


# What is no line here is drawn as PGD and Square are: full, with marks.
_STYLES: dict[str, tuple[LineStyle, str]] = {"fgsm": (":", ""), "apgd": ("--", "s")}
_NAMES = {"fgsm": "FGSM", "pgd": "PGD", "apgd": "APGD", "square": "Square"}
_ROUTES = {
    "exact": "Exact route",
    "feedback": "Feedback route",
    "transfer": "Transfer",
    "black-box": "Black box",
}


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
    percent = as_percent(table.pick(measure="accuracy"))
    by_severity.set_title("Mean over all corruptions")
    draw_lines(by_severity, percent, lambda row: row.setting.number("severity"))
    by_severity.set_xlabel("severity   (0: clean)")
    by_severity.set_xticks(sorted({int(row.setting.number("severity")) for row in percent}))
    by_severity.set_ylabel("test accuracy (%)")
    by_severity.set_ylim(bottom=0)
    ratios = [table.pick(measure=name, item="") for name in ("mce", "relative_mce")]
    if any(len(rows) for rows in ratios):
        others = [rule for rule in rules if len(ratios[0].pick(rule=rule))]
        relative.set_title("Relative to backpropagation")
        draw_dots(relative, ratios[1], others, "{:.2f}".format, hollow=True)
        draw_dots(relative, ratios[0], others, "{:.2f}".format)
        relative.axvline(1, color="#777777", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        relative.set_xlabel("errors / those of backpropagation\n(ring: only those added)")
    else:
        relative.set_visible(False)
    _draw_heat(heat, percent, rules)
    add_legend(figure, rules)
    add_caption(figure, f"{about} On {images_text(percent, 'test')} for each corruption and severity.")
    return figure


def _draw_heat(axes: Axes, percent: Facts, rules: list[str]) -> None:
    names = [name for name in percent.distinct("item") if name != "none"]
    columns = ["none", *names]
    means = [
        [series(percent.pick(rule=rule, item=name), lambda row: 0.0)[1] for name in columns] for rule in rules
    ]
    values = [[cell[0] if cell else float("nan") for cell in line] for line in means]
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
    percent = as_percent(table.pick(measure="accuracy"))
    clean = percent.pick(item="none")
    attacked = percent.where(lambda fact: fact.item != "none")
    routes = [route for route in _ROUTES if len(attacked.having(Setting.of(route=route)))]
    grid = figure.subplots(1, len(routes), sharey=True, squeeze=False)[0]
    for axes, route in zip(grid, routes, strict=True):
        rows = attacked.having(Setting.of(route=route))
        for attack in rows.distinct("item"):
            own = rows.pick(item=attack)
            known = set(own.distinct("rule"))
            start = Facts(fact for fact in clean if fact.rule in known)
            draw_lines(axes, Facts([*start, *own]), _eps, *_STYLES.get(attack, ("-", "o")))
        axes.set_title(_ROUTES[route])
        axes.set_xlabel("radius (1/255)")
        axes.set_xticks([0, *sorted({round(_eps(r), 3) for r in rows})])
    grid[0].set_ylim(-2, 100)
    grid[0].set_ylabel("test accuracy (%)")
    used = attacked.distinct("item")
    full = " or ".join(_NAMES[name] for name in used if name not in _STYLES)
    extra = [
        line_key(full, "-"),
        *(line_key(_NAMES[name], _STYLES[name][0]) for name in used if name in _STYLES),
    ]
    add_legend(figure, table.distinct("rule"), extra)
    add_caption(figure, f"{about} L-inf, on {images_text(percent, 'test')}. {masking_words(table)}")
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


def _eps(row: Fact) -> float:
    return 255 * row.setting.number("eps")
