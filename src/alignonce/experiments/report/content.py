"""What a report is about: all that its page, figures and tables are made from, gathered from a study."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from alignonce.experiments.claims import CLAIMS, Claim, Finding, evaluate
from alignonce.experiments.facts import Facts
from alignonce.experiments.figures.panels import Plot
from alignonce.experiments.report.plots_measures import measure_plots
from alignonce.experiments.report.plots_training import training_plots
from alignonce.experiments.report.subjects import swept_cells
from alignonce.experiments.runs.records import Environment
from alignonce.experiments.studies.collecting import collect_facts
from alignonce.experiments.studies.folder import StudyFolder, StudySnapshot
from alignonce.experiments.studies.study import Study, load_study, shipped_studies


@dataclass(frozen=True)
class ReportContent:
    """A study, its numbers, and what follows from them."""

    study: Study
    facts: Facts
    claims: Sequence[Claim]
    findings: Sequence[Finding]
    environments: Sequence[Environment]
    """Of the runs; those that differ in no more than the time count as one."""
    commands: Sequence[str]
    """What to type, one after the other, to make all of this again."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Names of runs and measurements that failed, and why."""

    def __post_init__(self) -> None:
        if not self.environments:
            raise ValueError("environments must hold at least one: that of the runs")

    @property
    def rules(self) -> list[str]:
        """The learning rules in the order of the study, and what else findings are about."""
        of_runs = (rule for cell in self.study.cells() for rule in cell.config.rules)
        return list(dict.fromkeys([*of_runs, *(finding.rule for finding in self.findings)]))

    @property
    def seeds(self) -> list[int]:
        """The seeds, ascending."""
        return sorted({seed for cell in self.study.cells() for seed in cell.config.seeds})

    @cached_property
    def swept(self) -> frozenset[tuple[str, str]]:
        """Part and name of the cells where the study varies a number, such as depth."""
        return swept_cells(self.study)

    def plots(self) -> list[Plot]:
        """Make the figures that there are numbers for, but those of the claims.

        Returns:
            The figures, without panels that would be empty.
        """
        return list(_filled(training_plots(self.study, self.facts))) + list(
            _filled(measure_plots(self.study, self.facts))
        )


def _filled(plots: Iterator[Plot]) -> Iterator[Plot]:
    for plot in plots:
        if plot.drawable:
            yield plot.drawable


def gather(snapshot: StudySnapshot, on_progress: Callable[[int, int], None] | None = None) -> ReportContent:
    """Collect the numbers of a study as far as it is done, and judge its claims.

    Args:
        snapshot: of the study.
        on_progress: called with the number of claims judged, and of all.

    Returns:
        What `write_report` takes.

    Raises:
        FileNotFoundError: none of its runs is finished.
        ValueError: a file is damaged, or runs of one cell learnt from different data.
    """
    study, folder = snapshot.study, snapshot.folder
    if not snapshot.finished:
        raise FileNotFoundError(f"{folder.path} holds no finished run: alignonce study run comes first")
    facts = collect_facts(snapshot)
    findings = evaluate(facts, on_progress=on_progress)
    environments = _distinct([run.environment for run, _ in snapshot.finished])
    return ReportContent(
        study, facts, CLAIMS, findings, environments, _commands(study, folder), snapshot.failures
    )


def _distinct(environments: list[Environment]) -> list[Environment]:
    """Those that differ in more than the time; of like ones the latest."""
    found = {env.model_copy(update={"time": ""}).model_dump_json(): env for env in environments}
    return list(found.values())


def _commands(study: Study, folder: StudyFolder) -> list[str]:
    if study.name in shipped_studies() and load_study(study.name) == study:
        return [f"alignonce reproduce --study {study.name}"]
    return [f"alignonce study run {study.name}.yaml --out {folder.path}", f"alignonce report {folder.path}"]
