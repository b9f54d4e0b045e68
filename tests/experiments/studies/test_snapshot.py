from alignonce.experiments.data.source import DataSource
from alignonce.experiments.studies.execution import run_study
from alignonce.experiments.studies.folder import StudyFolder
from helpers.small_studies import made_study


def in_this_process(jobs, on_start, on_end):
    for job in jobs:
        on_start(job)
        job()
        on_end(job, None)


def test_later_look_reads_only_what_was_not_finished(tmp_path):
    folder, study = StudyFolder(tmp_path), made_study(seeds=(0, 1))
    run_study(made_study(seeds=(0,)), folder, DataSource(hub=False), executor=in_this_process)
    before = folder.snapshot(study)
    assert [state for _, state in before.states] == ["done", "done", "waiting", "waiting"]
    (tmp_path / "main/runs/bp-seed0/summary.json").write_text("not read again")
    run_study(made_study(seeds=(1,)), StudyFolder(tmp_path), DataSource(hub=False), executor=in_this_process)
    after = before.later({})
    assert [state for _, state in after.states] == ["done"] * 4
    assert after.runs[:2] == before.runs[:2]


def test_failures_are_states_of_runs_that_are_not_finished(tmp_path):
    folder = StudyFolder(tmp_path)
    snapshot = folder.snapshot(made_study(seeds=(0,)))
    failed = snapshot.runs[1]
    assert [state for _, state in snapshot.later({failed.name: "why"}).states] == ["waiting", "failed"]


def test_configurations_of_a_study_are_made_once():
    study = made_study()
    assert all(a is b for a, b in zip(study.cells(), study.cells(), strict=True))
    assert study.count() == len(study.runs())
    assert study == made_study()
