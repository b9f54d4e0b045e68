"""Figures of training: the score at the end and on the way, alignment, and what depth does to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from alignonce.experiments.facts import Fact, Facts, Key, cell_settings
from alignonce.experiments.figures.panels import Panel, Plot, dots, lines
from alignonce.experiments.report.subjects import (
    along_words,
    diverged_runs,
    steady_parts,
    subjects,
    swept_groups,
    swept_setting,
)
from alignonce.experiments.runs.scores import ACCURACY, SCORES, Score
from alignonce.experiments.setting import NO_SETTING
from alignonce.experiments.studies.study import Study


def training_plots(study: Study, facts: Facts) -> Iterator[Plot]:
    """Make the figures of what training itself measured.

    Args:
        study: the study.
        facts: its facts.

    Yields:
        The figures, some of which there may be no facts for.
    """
    run, diverged = facts.pick(group="run"), diverged_runs(facts)
    steady = steady_parts(study)
    for score in SCORES:
        of_score = run.pick(measure=score.metric, item="")
        yield from _score_plots(study, of_score, score, diverged)
        curves = of_score.where(_on_the_way)
        yield _learning(study, curves, score, steady)
        for part in study.parts:
            if swept_setting(part) is not None:
                yield _learning(study, curves, score, (part.name,), f"-{part.name}", f": {part.title}")
    angles = run.pick(measure="angle_deg").where(_on_the_way)
    yield _alignment(study, angles, steady)
    for part in study.parts:
        if swept_setting(part) is not None:
            yield _alignment(study, angles, (part.name,), f"-{part.name}", f": {part.title}")


def _score_plots(study: Study, facts: Facts, score: Score, diverged: frozenset[Key]) -> Iterator[Plot]:
    """The score at the end of training, and against each number that the study varies."""
    name, title = _name(score), _title(score)
    final = facts.pick(setting=NO_SETTING)
    lost = "Diverged runs count as chance." if score is ACCURACY else "Diverged runs have no mark."
    yield Plot(
        name,
        f"{title} at the end of training",
        "Each small mark is one seed; a cross is a run that diverged, whose accuracy counts as chance."
        if score is ACCURACY
        else f"Each small mark is one seed. {lost}",
        tuple(
            Panel(s.title, "dots", score.axis, dots(s.facts, score.factor, diverged), digits=_digits(score))
            for s in subjects(study, final, steady_parts(study))
        ),
    )
    for part in study.parts:
        if (swept := swept_setting(part)) is not None:
            yield Plot(
                part.name if part.name == "depth" and score is ACCURACY else f"{name}-{part.name}",
                f"{title} against {along_words(swept)}: {part.title}",
                f"Mean over the seeds, with each seed as a thin line. {lost}",
                tuple(
                    Panel(
                        group or part.title, "lines", score.axis,
                        lines(its_facts, _setting_of_cell(swept), score.factor),
                        along=along_words(swept), log_along=swept == "learning_rate", digits=_digits(score),
                    )
                    for group, its_facts in swept_groups(part, final)
                ),
            )  # fmt: skip


def _learning(
    study: Study, curves: Facts, score: Score, parts: tuple[str, ...], ending: str = "", of: str = ""
) -> Plot:
    """The score over training; that of a part with many cells is folded."""
    return Plot(
        f"learning{ending}" if score is ACCURACY else f"learning-{_name(score)}{ending}",
        f"{_title(score)} over training{of}",
        "Mean over the seeds, with each seed as a thin line.",
        tuple(
            Panel(
                s.title, "lines", score.axis, lines(s.facts, _epoch, score.factor), along="epoch",
                digits=_digits(score),
            )
            for s in subjects(study, curves, parts)
        ),
        folded=bool(ending),
    )  # fmt: skip


def _alignment(study: Study, angles: Facts, parts: tuple[str, ...], ending: str = "", of: str = "") -> Plot:
    """Angles over training; those of a part with many cells are folded."""
    return Plot(
        f"alignment{ending}",
        f"Angle between forward and feedback weights over training{of}",
        "Mean over the layers that send an error on. 0° is backpropagation, 90° is no alignment. Next "
        "to it, the angle of each such layer at the end, from input to output.",
        tuple(
            panel
            for s in subjects(study, angles, parts)
            for panel in (
                Panel(
                    s.title, "lines", "angle (degrees)", lines(s.facts, _epoch), along="epoch", mark=90,
                    mark_label="orthogonal",
                ),
                _final_angles(f"{s.title}, at the end", s.facts),
            )
        ),
        folded=bool(ending),
    )  # fmt: skip


def _name(score: Score) -> str:
    """What the figures of a score are called."""
    return "accuracy" if score is ACCURACY else score.metric.removeprefix("test_").replace("_", "-")


def _title(score: Score) -> str:
    return score.title[0].upper() + score.title[1:]


def _digits(score: Score) -> int:
    # Of bits per byte, about 3, all decimals are wanted that comparisons print.
    return 3 if score is ACCURACY else 1 + score.decimals


def _final_angles(title: str, facts: Facts) -> Panel:
    # The first layer is left out, for it sends no error on: the numbers begin at 2.
    layers = facts.distinct("item")
    last: dict[tuple[str, int], float] = {}
    for fact in facts:
        run = (fact.rule, fact.seed)
        last[run] = max(last.get(run, 0.0), _epoch(fact))
    final = [fact for fact in facts if _epoch(fact) == last[fact.rule, fact.seed]]
    return Panel(
        title, "lines", "angle (degrees)", lines(final, lambda fact: layers.index(fact.item) + 2.0),
        along="layer, from input to output",
        mark=90, mark_label="orthogonal",
    )  # fmt: skip


def _on_the_way(fact: Fact) -> bool:
    return fact.setting.get("epoch") is not None


def _epoch(fact: Fact) -> float:
    return fact.setting.number("epoch")


def _setting_of_cell(name: str) -> Callable[[Fact], float]:
    return lambda fact: float(cell_settings(fact.cell)[name])
