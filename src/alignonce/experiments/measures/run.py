"""Analysing saved runs: all measures of all runs and, if wanted, of their checkpoints; one table, figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console

from alignonce.experiments.bars import AnalysisBars
from alignonce.experiments.config.devices import pick_device
from alignonce.experiments.data.data_facts import DataFacts
from alignonce.experiments.data.image_data import ImageData
from alignonce.experiments.facts import FORMAT, Fact, Facts
from alignonce.experiments.figures.captions import describe_network, describe_seeds
from alignonce.experiments.figures.layers import alignment_figure, flow_figure, rank_figure
from alignonce.experiments.figures.measures import (
    adversarial_figure,
    corruptions_figure,
    generalisation_figure,
    weights_figure,
)
from alignonce.experiments.figures.planes_and_spectra import (
    curvature_figure,
    landscape_figure,
    lines_figure,
    spectrum_figure,
)
from alignonce.experiments.figures.style import save_figure, style
from alignonce.experiments.figures.training import training_figure, trajectory_figure
from alignonce.experiments.files import ensure_writable, write_atomically
from alignonce.experiments.measures.cache import CachedStep
from alignonce.experiments.measures.example_sets import ExampleSets
from alignonce.experiments.measures.groups import GROUPS, Group, check_libraries
from alignonce.experiments.measures.plan import AnalysisPlan, GroupName
from alignonce.experiments.measures.subjects import Subject, find_runs, make_subjects
from alignonce.experiments.measures.summary import corruption_summaries
from alignonce.experiments.measures.trajectory import (
    measure_trajectory,
    trails_of,
    trajectory_facts,
    trajectory_part,
)
from alignonce.experiments.runs.folder import RunRecord
from alignonce.experiments.tasks import Task


@dataclass(frozen=True)
class Failure:
    """A group that could not be measured of a run, and why."""

    run: str
    group: str
    reason: str


@dataclass(frozen=True)
class Analysis:
    """An analysis on disk.

    `skipped` counts the parts (a group of a run) that were measured before; `interrupted`: by Ctrl-C.
    """

    table: Facts
    files: list[Path]
    failures: list[Failure]
    parts: int
    skipped: int
    interrupted: bool


def analyse(
    paths: Sequence[Path],
    plan: AnalysisPlan,
    out: Path,
    load: Callable[[RunRecord], Task],
    console: Console | None = None,
    *,
    figures: bool = True,
    known: Mapping[GroupName, Group] = GROUPS,
) -> Analysis:
    """Measure saved runs, and write `analysis.csv`, `analysis.json` and figures.

    What `out` already holds of the same networks, measured with the same settings, is not measured again. A
    measure that fails does not stop the others. Ctrl-C stops all, and keeps what was measured.

    Args:
        paths: run folders, or folders of run folders.
        plan: what to measure.
        out: the folder for the results; made if missing.
        load: gives what the runs learnt, the same for all of them.
        console: where to show progress; None shows none.
        figures: whether to draw.
        known: the groups of measures, by name.

    Returns:
        The numbers, the files, and what failed.

    Raises:
        FileNotFoundError: there is no run in a folder.
        ValueError: the runs cannot be compared, the data are others than they learnt from, a library is
            missing, or `out` is a run's own folder.
    """
    groups = [known[name] for name in plan.measures]
    runs = find_runs(paths)
    if (other := next((run for run in runs if run.config.task != "images"), None)) is not None:
        raise ValueError(
            f"{other.folder} is a run of task {other.config.task}; only runs of task images can be analysed"
        )
    check_libraries(groups)
    if (owner := next((run for run in runs if run.folder.resolve() == out.resolve()), None)) is not None:
        raise ValueError(f"out: {owner.folder} is the folder of a run; choose another for the results")
    ensure_writable(out)
    examples = ExampleSets(lambda: _checked(load(runs[0]), runs[0]), pick_device(plan.device))
    subjects = make_subjects(runs, examples)
    work = [(s, g, CachedStep.of(out, s, g, plan), plan) for s in subjects for g in groups]
    trails = trails_of(subjects) if plan.checkpoints else []
    small, path = plan.at_checkpoints(), trajectory_part(out, trails, plan) if trails else None
    often = [g for g in groups if g.at_checkpoints]
    work += [(s, g, CachedStep.of(out, s, g, small), small) for trail in trails for s in trail for g in often]
    if any(part.read() is None for _, _, part, _ in work) or (path is not None and path.read() is None):
        # Before any work: every run needs them.
        examples.data  # noqa: B018

    facts: list[Fact] = []
    failures: list[Failure] = []
    skipped, interrupted = 0, False
    with AnalysisBars(console, len(work)) as bars:
        try:
            for subject, group, part, sizes in work:
                measured = part.read()
                if measured is not None:
                    skipped += 1
                else:
                    try:
                        measured = _measure(subject, group, sizes, bars)
                        part.write(measured)
                    # Whatever goes wrong in one measure, the others are still worth having.
                    except Exception as error:
                        failures.append(_failure(subject, group, error))
                facts += (
                    subject.named(group.name, fact)._replace(step=subject.step) for fact in measured or ()
                )
                bars.finish_part()
            if path is not None:
                bars.begin("plane of the trajectories", 1)
                try:
                    if (measured := path.read()) is None:
                        path.write(measured := measure_trajectory(trails, plan))
                    facts += trajectory_facts(trails, measured)
                except ValueError as error:
                    failures.append(Failure("all runs", "trajectory", " ".join(str(error).split())))
        except KeyboardInterrupt:
            interrupted = True
    measured_facts = Facts(facts)
    table = Facts(
        [*facts, *(fact for subject in subjects for fact in corruption_summaries(measured_facts, subject))]
    )
    write_atomically(out / "analysis.csv", table.write_csv)
    about = {
        "format": FORMAT,
        "plan": plan.model_dump(mode="json"),
        "runs": [str(run.folder) for run in runs],
        "failures": [asdict(failure) for failure in failures],
    }
    write_atomically(out / "analysis.json", json.dumps(about, indent=2) + "\n")
    drawn = save_all_figures(table, plan, runs, out) if figures else []
    files = [out / "analysis.csv", out / "analysis.json", *drawn]
    return Analysis(table, files, failures, len(work), skipped, interrupted)


def failure_lines(failures: Sequence[Failure]) -> list[str]:
    """Put failures into words; what failed for one and the same reason comes together.

    Args:
        failures: the failures.

    Returns:
        A line for each run and reason.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for failure in failures:
        groups.setdefault((failure.run, failure.reason), []).append(failure.group)
    return [f"{run}, {' '.join(names)}: {reason}" for (run, reason), names in groups.items()]


def _measure(subject: Subject, group: Group, plan: AnalysisPlan, bars: AnalysisBars) -> list[Fact]:
    config = subject.record.config
    steps = group.steps(subject, plan)
    if subject.step is not None:
        steps = [step for step in steps if step.title in group.at_checkpoints]
    bars.begin(f"{config.rule}, seed {config.seed}: {group.name}", len(steps))
    rows: list[Fact] = []
    for step in steps:
        bars.show_step(step.title)
        rows += step.take()
        bars.finish_step()
    return rows


def _failure(subject: Subject, group: Group, error: Exception) -> Failure:
    reason = " ".join(str(error).split()) or type(error).__name__
    return Failure(subject.name, group.name, reason)


def _checked(task: Task, run: RunRecord) -> ImageData:
    facts, images = task.facts, task.images
    if images is None or not facts.same_as(run.summary.data):
        raise ValueError(
            f"the data are not those that {run.folder} learnt from: "
            f"{_describe(facts)}, not {_describe(run.summary.data)}"
        )
    return images


def _describe(facts: DataFacts) -> str:
    return f"{facts.name} of {facts.train_examples} + {facts.test_examples} images {facts.example_shape}"


FIGURES: dict[str, tuple[GroupName, Callable[[Facts, str], Figure | None]]] = {
    "alignment": ("alignment", alignment_figure),
    "ranks": ("alignment", rank_figure),
    "flow": ("flow", flow_figure),
    "curvature": ("curvature", curvature_figure),
    "spectrum": ("curvature", spectrum_figure),
    "landscape": ("landscape", landscape_figure),
    "lines": ("landscape", lines_figure),
    "generalisation": ("generalisation", generalisation_figure),
    "corruptions": ("corruptions", corruptions_figure),
    "weights": ("weights", weights_figure),
    "adversarial": ("adversarial", adversarial_figure),
}


def save_all_figures(table: Facts, plan: AnalysisPlan, runs: Sequence[RunRecord], out: Path) -> list[Path]:
    """Draw and save what there are numbers for.

    Args:
        table: the analysis.
        plan: its settings.
        runs: its runs.
        out: where the figures go.

    Returns:
        The files, PNG and PDF.
    """
    about = f"{describe_network(runs[0])}, final networks, {describe_seeds(runs)}."
    files: list[Path] = []
    final, checkpoints = table.pick(step=None), table.where(lambda fact: fact.step is not None)
    work = [(name, final.pick(group=g), draw) for name, (g, draw) in FIGURES.items() if g in plan.measures]
    work += [("training", checkpoints, training_figure)]
    work += [("trajectory", table.pick(group="trajectory"), trajectory_figure)]
    for name, rows, draw in work:
        if not len(rows):
            continue
        with style():
            figure = draw(rows, about)
        if figure is not None:
            files += save_figure(figure, out / f"{name}.png")
    return files
