"""From the folders of a study to its one table of numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from alignonce.experiments.facts import Fact, Facts, Key
from alignonce.experiments.runs.folder import RunRecord
from alignonce.experiments.runs.records import Summary, error_carrying_layers
from alignonce.experiments.runs.scores import ACCURACY, score_of
from alignonce.experiments.studies.folder import StudyFolder, StudyRun, StudySnapshot
from alignonce.experiments.studies.study import Cell


def collect_facts(snapshot: StudySnapshot) -> Facts:
    """Read all numbers of the finished runs of a study.

    Args:
        snapshot: of the study.

    Returns:
        The numbers, and which test images each run got right.

    Raises:
        ValueError: runs of one cell learnt from different data; a file is damaged.
    """
    facts: list[Fact] = []
    correct: dict[Key, NDArray[np.bool_]] = {}
    finished: dict[tuple[Cell, int], list[str]] = {}
    first: dict[Cell, tuple[StudyRun, Summary]] = {}
    for run, summary in snapshot.finished:
        reference, of_reference = first.setdefault(run.cell, (run, summary))
        if not summary.data.same_as(of_reference.data):
            raise ValueError(f"{run.folder.path} and {reference.folder.path} learnt from different data")
        facts += _facts_of_run(run, run.record(summary))
        if (right := run.folder.classified_rightly()) is not None:
            correct[run.cell.part, run.cell.name, run.config.rule, run.config.seed] = right
        finished.setdefault((run.cell, run.config.seed), []).append(run.config.rule)
    for (cell, seed), rules in finished.items():
        facts += _facts_of_analysis(snapshot.folder, cell, seed, rules)
    return Facts(facts, correct)


def _facts_of_run(run: StudyRun, record: RunRecord) -> Iterator[Fact]:
    summary, metrics = record.summary, record.metrics
    diverged = summary.status == "diverged"
    tests, images = summary.data.test_examples, summary.data.train_examples

    def of_run(fact: Fact) -> Fact:
        return fact._replace(
            part=run.cell.part, cell=run.cell.name, run=record.folder.name, rule=run.config.rule,
            seed=run.config.seed, group="run",
        )  # fmt: skip

    def fact(measure: str, value: float | None, count: int = 0) -> Fact:
        number = np.nan if value is None else float(value)
        return of_run(Fact(measure=measure, images=count, value=number))

    score = score_of(record)
    if score is ACCURACY:
        chance = 1 / summary.data.outputs
        yield fact("test_accuracy", chance if diverged else summary.test_accuracy, tests)
        yield fact("train_accuracy", chance if diverged else summary.train_accuracy, images)
    else:
        yield fact(score.metric, None if diverged else summary.value(score), tests)
    yield fact("test_loss", None if diverged else summary.test_loss, tests)
    yield fact("train_loss", None if diverged else summary.train_loss, images)
    yield fact("diverged", diverged)
    yield fact("seconds", summary.seconds)
    for on_the_way in metrics.facts(score.metric):
        yield of_run(on_the_way._replace(images=tests))
    for measure in ("cosine", "angle_deg"):
        for layer in error_carrying_layers(metrics):
            yield from map(of_run, metrics.facts(measure, layer))


def _facts_of_analysis(folder: StudyFolder, cell: Cell, seed: int, rules: list[str]) -> Iterator[Fact]:
    file = folder.analysis(cell, seed) / "analysis.csv"
    if not file.exists():
        return
    for fact in Facts.read_csv(file):
        # The rest of a study that has lost some of its rules since.
        if fact.rule in rules and fact.step is None:
            yield fact._replace(part=cell.part, cell=cell.name)
