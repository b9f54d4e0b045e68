"""The checkpoints of runs, and the plane that their paths through the space of weights lie nearest to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional as F

from alignonce.diagnostics import surface, trajectory_plane
from alignonce.experiments.facts import Fact
from alignonce.experiments.measures.cache import VERSION, CachedStep
from alignonce.experiments.measures.example_sets import in_parts
from alignonce.experiments.measures.plan import AnalysisPlan
from alignonce.experiments.measures.subjects import Subject
from alignonce.experiments.setting import NO_SETTING, Setting
from alignonce.experiments.training.checkpoints import saved_steps

Trail = list[Subject]


def trails_of(subjects: Sequence[Subject]) -> list[Trail]:
    """Find the checkpoints of runs.

    Args:
        subjects: the runs.

    Returns:
        For each run its checkpoints, from the first step on.

    Raises:
        ValueError: a run has none.
    """
    steps = {subject.name: saved_steps(subject.record.folder) for subject in subjects}
    if lacking := [name for name, found in steps.items() if not found]:
        raise ValueError(
            f"checkpoints: there are none of {', '.join(lacking)}; train with --checkpoints N (such as 5) to "
            "keep some, or analyse without --checkpoints"
        )
    return [[replace(s, reference=None, start=None, step=step) for step in steps[s.name]] for s in subjects]


def trajectory_part(out: Path, trails: Sequence[Trail], plan: AnalysisPlan) -> CachedStep:
    """Name the file of the plane, and list all that it depends on.

    Args:
        out: the folder of the analysis.
        trails: the checkpoints.
        plan: the settings.

    Returns:
        The part, whether or not it is measured.
    """
    used = {
        "version": VERSION,
        "networks": {trail[0].name: [s.fingerprint for s in trail] for trail in _of_first_seed(trails)},
        "data": trails[0][0].record.summary.data.model_dump(mode="json", exclude={"source"}),
        "images": plan.images_for("landscape"),
        "points": plan.points,
    }
    return CachedStep(out / "parts" / "trajectory.json", used)


def measure_trajectory(trails: Sequence[Trail], plan: AnalysisPlan) -> list[Fact]:
    """Project the paths of the first seed's runs onto the plane of their principal components; loss on it.

    Args:
        trails: the checkpoints.
        plan: the settings.

    Returns:
        `path_x` and `path_y` with the run as item; `plane_loss`; the shares of variance, `explained`.

    Raises:
        ValueError: there are fewer than three checkpoints in all, or they lie on one line.
    """
    some = _of_first_seed(trails)
    first = some[0][-1]
    states = {trail[0].name: [s.model.state_dict() for s in trail] for trail in some}
    # A run that is about to diverge may have left a network that holds infinite weights: it has no place.
    finite = {
        name: [state for state in own if all(v.isfinite().all() for v in state.values())]
        for name, own in states.items()
    }
    plane = trajectory_plane(first.model, {name: own for name, own in finite.items() if own})
    batch = first.examples.train(plan.images_for("landscape"))
    found = surface(
        first.model, plane, in_parts(batch), F.cross_entropy, points=plan.points,
        batch_statistics=first.has_batch_norm,
    )  # fmt: skip
    rows = [
        Fact(measure="explained", setting=Setting.of(axis=axis), value=share)
        for axis, share in zip("xy", plane.explained or (), strict=False)
    ]
    for trail in some:
        for subject, (x, y) in zip(trail, plane.paths.get(trail[0].name, torch.empty(0, 2)), strict=False):
            at = Setting.of(step=float(subject.step or 0))
            rows += [
                Fact(measure=f"path_{axis}", item=trail[0].name, setting=at, value=float(v))
                for axis, v in zip("xy", (x, y), strict=True)
            ]
    for j, y in enumerate(found.y.tolist()):
        for i, x in enumerate(found.x.tolist()):
            rows.append(
                Fact(
                    measure="plane_loss",
                    setting=Setting.of(x=x, y=y),
                    images=len(batch[1]),
                    value=float(found.loss[j, i]),
                )
            )
    return rows


def trajectory_facts(trails: Sequence[Trail], measured: Sequence[Fact]) -> list[Fact]:
    """Say of each number which run it is about; the plane belongs to all, and is put down to the first.

    Args:
        trails: the checkpoints.
        measured: of `measure_trajectory`.

    Returns:
        The facts of the table.
    """
    runs = {trail[0].name: trail[0] for trail in trails}
    facts = []
    for fact in measured:
        if fact.item:
            about = runs[fact.item]
            fact = fact._replace(item="", setting=NO_SETTING, step=int(fact.setting.number("step")))
        else:
            about = trails[0][0]
        facts.append(about.named("trajectory", fact))
    return facts


def _of_first_seed(trails: Sequence[Trail]) -> list[Trail]:
    """Paths of different seeds begin at different places: no plane would hold them."""
    seed = min(trail[0].record.config.seed for trail in trails)
    return [trail for trail in trails if trail[0].record.config.seed == seed]
