"""Figures of training: accuracy at the end and on the way, alignment, and what depth does to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from alignonce.experiments.studies.evidence import Evidence, Fact, cell_settings
from alignonce.experiments.studies.study import Study
from alignonce.report.panels import Panel, Plot, dots, lines
from alignonce.report.subjects import (
    along_words,
    diverged_runs,
    setting_of,
    steady_parts,
    subjects,
    swept_groups,
    swept_setting,
)


def training_plots(study: Study, evidence: Evidence) -> Iterator[Plot]:
    """Make the figures of what training itself measured.

    Args:
        study: the study.
        evidence: its facts.

    Yields:
        The figures that there are facts for.
    """
    run = evidence.pick(group="run")
    accuracy = run.pick(measure="test_accuracy", item="")
    final, curves = accuracy.pick(setting=""), Evidence(f for f in accuracy if setting_of(f, "epoch"))
    angles = Evidence(f for f in run.pick(measure="angle_deg") if setting_of(f, "epoch"))
    diverged = diverged_runs(evidence)
    yield Plot(
        "accuracy",
        "Test accuracy at the end of training",
        "Each small mark is one seed; a cross is a run that diverged, whose accuracy counts as chance.",
        tuple(
            Panel(s.title, "dots", "test accuracy (%)", dots(s.facts, 100, diverged))
            for s in subjects(study, final, steady_parts(study))
        ),
    )
    for part in study.parts:
        if (swept := swept_setting(part)) is not None:
            yield Plot(
                part.name if part.name == "depth" else f"accuracy-{part.name}",
                f"Test accuracy against {along_words(swept)}: {part.title}",
                "Mean over the seeds, with each seed as a thin line. Diverged runs count as chance.",
                tuple(
                    Panel(
                        group or part.title, "lines", "test accuracy (%)",
                        lines(facts, _setting_of_cell(swept), 100),
                        along=along_words(swept), log_along=swept == "learning_rate",
                    )
                    for group, facts in swept_groups(part, final)
                ),
            )  # fmt: skip
    yield from _curves(study, curves, angles, steady_parts(study))
    for part in study.parts:
        if swept_setting(part) is not None:
            yield from _curves(study, curves, angles, (part.name,), f"-{part.name}", f": {part.title}")


def _curves(
    study: Study, curves: Evidence, angles: Evidence, parts: tuple[str, ...], ending: str = "", of: str = ""
) -> Iterator[Plot]:
    """Accuracy and alignment over training; those of a part with many cells are folded."""
    yield Plot(
        f"learning{ending}",
        f"Test accuracy over training{of}",
        "Mean over the seeds, with each seed as a thin line.",
        tuple(
            Panel(s.title, "lines", "test accuracy (%)", lines(s.facts, _epoch, 100), along="epoch")
            for s in subjects(study, curves, parts)
        ),
        folded=bool(ending),
    )
    yield Plot(
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


def _final_angles(title: str, facts: Evidence) -> Panel:
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


def _epoch(fact: Fact) -> float:
    return float(setting_of(fact, "epoch"))


def _setting_of_cell(name: str) -> Callable[[Fact], float]:
    return lambda fact: float(cell_settings(fact.cell)[name])
