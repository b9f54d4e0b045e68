"""From the folder of a study to the content of its report."""

from __future__ import annotations

from collections.abc import Callable

from alignonce.experiments.claims import CLAIMS, evaluate
from alignonce.experiments.report.content import ReportContent
from alignonce.experiments.runs.records import Environment
from alignonce.experiments.studies.collecting import collect_evidence
from alignonce.experiments.studies.folder import StudyFolder
from alignonce.experiments.studies.study import Study, load_study, shipped_studies


def gather(folder: StudyFolder, on_progress: Callable[[int, int], None] | None = None) -> ReportContent:
    """Collect the numbers of a study as far as it is done, and judge its claims.

    Args:
        folder: of the study.
        on_progress: called with the number of claims judged, and of all.

    Returns:
        What `write_report` takes.

    Raises:
        FileNotFoundError: there is no study in the folder, or none of its runs is finished.
        ValueError: a file is damaged, or runs of one cell learnt from different data.
    """
    study = folder.study()
    finished = [run.folder for run in folder.runs(study) if run.folder.is_finished()]
    if not finished:
        raise FileNotFoundError(f"{folder.path} holds no finished run: alignonce study run comes first")
    evidence = collect_evidence(folder, study)
    findings = evaluate(evidence, on_progress=on_progress)
    environments = _distinct([run.environment() for run in finished])
    return ReportContent(
        study, evidence, CLAIMS, findings, environments, _commands(study, folder), folder.failures()
    )


def _distinct(environments: list[Environment]) -> list[Environment]:
    """Those that differ in more than the time; of like ones the latest."""
    found = {env.model_copy(update={"time": ""}).model_dump_json(): env for env in environments}
    return list(found.values())


def _commands(study: Study, folder: StudyFolder) -> list[str]:
    if study.name in shipped_studies() and load_study(study.name) == study:
        return [f"alignonce reproduce --study {study.name}"]
    return [f"alignonce study run {study.name}.yaml --out {folder.path}", f"alignonce report {folder.path}"]
