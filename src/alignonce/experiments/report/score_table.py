"""The final score of each rule in each cell of a study, against backpropagation's, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from alignonce.experiments.facts import Facts
from alignonce.experiments.figures.panels import NONE
from alignonce.experiments.report.content import ReportContent
from alignonce.experiments.report.markdown import escaped, table_lines
from alignonce.experiments.report.subjects import subjects
from alignonce.experiments.runs.scores import SCORES, Score
from alignonce.experiments.setting import NO_SETTING

_BASELINE = "bp"
_Values = dict[int, float]
"""By seed."""


def score_table(content: ReportContent, reference: ReportContent | None = None) -> list[str]:
    """Tabulate a study that is scored by one number, such as bits per byte.

    Differences are of the same seeds: each is the mean over the seeds, with its sample deviation.

    Args:
        content: the study.
        reference: the study whose backpropagation is the measure of all; left out, this study itself. The
            first cell in which backpropagation was run counts.

    Returns:
        The lines of a table; a further column compares with backpropagation in the same cell, if there is a
        reference.

    Raises:
        ValueError: the reference has no run of backpropagation that is finished.
    """
    final = content.facts.pick(group="run", item="", setting=NO_SETTING)
    score = next((score for score in SCORES if len(final.pick(measure=score.metric))), SCORES[0])
    best = _baseline((reference or content).facts.pick(group="run", item="", setting=NO_SETTING), score)
    heads = [
        "Setting",
        "Rule",
        score.title,
        "Against backpropagation",
        "Seeds",
        "Cosine of W and B at the end",
    ]
    if reference:
        heads.insert(4, "Against it in the same setting")
    rows = []
    for subject in subjects(content.study, final.pick(measure=score.metric)):
        own = _by_rule(subject.facts)
        measured = content.facts.pick(part=subject.part, cell=subject.cell)
        for rule, values in own.items():
            # The setting stands in the first of its rows.
            title = "" if rule != next(iter(own)) else escaped(subject.title)
            row = [title, f"`{rule}`", score.text(list(values.values()))]
            row.append(_against(values, best))
            if reference:
                row.append(_against(values, own.get(_BASELINE, {})))
            rows.append([*row, ", ".join(map(str, values)), _cosines(measured.pick(rule=rule))])
    return table_lines(heads, rows)


def _by_rule(facts: Facts) -> dict[str, _Values]:
    """Of the runs that did not diverge, by rule."""
    found: dict[str, _Values] = {}
    for fact in facts:
        if math.isfinite(fact.value):
            found.setdefault(fact.rule, {})[fact.seed] = fact.value
    return found


def _baseline(final: Facts, score: Score) -> _Values:
    runs = final.pick(measure=score.metric, rule=_BASELINE)
    if not len(runs):
        raise ValueError(f"reference must hold a finished run of {_BASELINE}")
    first = next(iter(runs))
    return {fact.seed: fact.value for fact in runs.pick(part=first.part, cell=first.cell)}


def _against(values: _Values, baseline: _Values) -> str:
    return _percent([100 * (values[seed] / baseline[seed] - 1) for seed in values if seed in baseline])


def _percent(differences: Sequence[float]) -> str:
    if not differences:
        return NONE
    spread = f" ± {stdev(differences):.1f}" if len(differences) > 1 else ""
    return f"{fmean(differences):+.1f}{spread} %"


def _cosines(facts: Facts) -> str:
    """The lowest and the highest of all layers, means over the seeds."""
    on_the_way = [fact for fact in facts.pick(measure="cosine") if fact.setting.get("epoch") is not None]
    if not on_the_way:
        return NONE
    end = max(fact.setting.number("epoch") for fact in on_the_way)
    by_layer: dict[str, list[float]] = {}
    for fact in on_the_way:
        if fact.setting.number("epoch") == end:
            by_layer.setdefault(fact.item, []).append(fact.value)
    means = [fmean(values) for values in by_layer.values()]
    return f"{min(means):.2f} to {max(means):.2f}" if len(means) > 1 else f"{means[0]:.2f}"
