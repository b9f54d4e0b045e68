import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from alignonce.experiments.data.source import DataSource
from alignonce.experiments.files import locked
from alignonce.experiments.runs.folder import RunFolder
from alignonce.experiments.studies.execution import run_study
from alignonce.experiments.studies.folder import StudyFolder
from alignonce.experiments.studies.jobs import Train
from alignonce.experiments.studies.pool import run_in_processes
from helpers.small_studies import TRAIN, made_part, made_study

SOURCE = DataSource(hub=False)


def at_once(jobs, on_start, on_end):
    """Do jobs in this process, as fast as can be."""
    for job in jobs:
        on_start(job)
        try:
            job()
        except Exception as error:
            on_end(job, str(error))
        else:
            on_end(job, None)


def run(study, path, **kwargs):
    return run_study(study, StudyFolder(path), SOURCE, executor=at_once, **kwargs)


def test_all_runs_are_done_and_measured(tmp_path):
    measure = {"measures": ["generalisation"], "images": 20}
    result = run(made_study(parts=(made_part(measure=measure),)), tmp_path)
    assert [state for _, state in result.states] == ["done"] * 4
    assert not result.failures
    assert (tmp_path / "main/runs/fa-seed1/model.safetensors").exists()
    assert (tmp_path / "main/runs/analysis/seed1/analysis.csv").exists()


def test_what_is_done_is_not_done_again(tmp_path):
    run(made_study(seeds=(0,)), tmp_path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("main/**/*.json")}
    again = run(made_study(seeds=(0, 1)), tmp_path)
    assert again.skipped == 2
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert run(made_study(seeds=(0, 1)), tmp_path).skipped == 4


def test_rules_of_a_seed_share_weights_and_batches(tmp_path):
    """Direct evidence: the first loss is of the first batch under the initial weights."""
    run(made_study(), tmp_path)
    first = {
        (rule, seed): RunFolder(tmp_path / f"main/runs/{rule}-seed{seed}")
        .load()
        .metrics.series("step_loss")[1][0]
        for rule in ("bp", "fa")
        for seed in (0, 1)
    }
    assert first["bp", 0] == first["fa", 0] != first["bp", 1] == first["fa", 1]


def test_a_failing_run_does_not_stop_the_others_and_is_tried_again(tmp_path):
    class Breaking(Train):
        def __call__(self) -> None:
            raise RuntimeError("the lights went out")

    def breaking_once(jobs, on_start, on_end):
        breaking = (Breaking(**vars(job)) if job.name == "main: fa, seed 0" else job for job in jobs)
        at_once(breaking, on_start, on_end)

    study = made_study()
    result = run_study(study, StudyFolder(tmp_path), SOURCE, executor=breaking_once)
    assert [state for _, state in result.states] == ["done", "failed", "done", "done"]
    assert result.failures == {"main: fa, seed 0": "the lights went out"}
    assert StudyFolder(tmp_path).failures() == result.failures
    assert [state for _, state in run(study, tmp_path).states] == ["done"] * 4
    assert StudyFolder(tmp_path).failures() == {}


def test_diverged_runs_are_an_end_and_are_not_measured(tmp_path):
    part = made_part(
        train=TRAIN | {"learning_rate": 1e30, "optimizer": "sgd"},
        measure={"measures": ["generalisation"], "images": 20},
    )
    result = run(made_study(parts=(part,)), tmp_path)
    assert {state for _, state in result.states} == {"diverged"}
    assert not result.failures
    assert run(made_study(parts=(part,)), tmp_path).skipped == 4


def test_ctrl_c_keeps_what_is_done(tmp_path):
    def interrupting(jobs, on_start, on_end):
        at_once(jobs[:1], on_start, on_end)
        raise KeyboardInterrupt

    result = run_study(made_study(), StudyFolder(tmp_path), SOURCE, executor=interrupting)
    assert result.interrupted
    assert [state for _, state in result.states] == ["done", "waiting", "waiting", "waiting"]


def test_two_processes_do_not_run_one_study(tmp_path):
    with locked(tmp_path), pytest.raises(BlockingIOError, match="another process is at work"):
        run(made_study(), tmp_path)
    assert len(run(made_study(), tmp_path).states) == 4


def test_another_study_is_not_mixed_in(tmp_path):
    run(made_study(), tmp_path)
    with pytest.raises(FileExistsError, match="holds the study made; choose another folder"):
        run(made_study(name="other"), tmp_path)


def test_changed_settings_get_folders_of_their_own(tmp_path):
    run(made_study(), tmp_path)
    longer = made_part(train=TRAIN | {"epochs": 2})
    assert run(made_study(parts=(longer,)), tmp_path).skipped == 0
    assert (tmp_path / "main/runs/bp-seed0-2").is_dir()
    assert run(made_study(), tmp_path).skipped == 4


def test_missing_data_are_a_failure_never_replaced(tmp_path):
    part = made_part(train=TRAIN | {"data": "hub:nobody/nothing"})
    result = run(made_study(parts=(part,)), tmp_path)
    assert len(result.failures) == 4
    assert all("data: the hub's data set nobody/nothing" in reason for reason in result.failures.values())


def test_runs_together_are_the_same_up_to_rounding(tmp_path):
    part = made_part(rules=("bp", "fa", "soft:0.5", "kp"), train=TRAIN | {"epochs": 2})
    study = made_study(parts=(part,))
    names: list[str] = []

    def noting(jobs, on_start, on_end):
        names.extend(job.name for job in jobs)
        at_once(jobs, on_start, on_end)

    result = run_study(study, StudyFolder(tmp_path / "a"), SOURCE, executor=noting, together=True)
    assert [state for _, state in result.states] == ["done"] * 8
    # Backpropagation's two, random and soft feedback's four, and each of Kolen-Pollack's by itself.
    assert sum("more" in name for name in names) == 2
    assert len(names) == 4
    run(study, tmp_path / "b")
    for planned, _ in result.states:
        ours, theirs = (
            planned.folder,
            RunFolder(tmp_path / "b" / planned.folder.path.relative_to(tmp_path / "a")),
        )
        losses, others = (f.load().metrics.series("step_loss")[1] for f in (ours, theirs))
        np.testing.assert_allclose(losses, others, rtol=1e-3)


class Note:
    """A job that leaves a file; or kills its process first, each time or the first time."""

    def __init__(self, name, folder, deadly=""):
        self.name, self.file, self.deadly = name, folder / name, deadly

    inputs = covers = ()
    output = Path()

    def moved(self, old, new):
        return self

    def __call__(self):
        tried = self.file.with_suffix(".tried")
        first = not tried.exists()
        tried.touch()
        if self.deadly == "always" or (self.deadly == "once" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        self.file.touch()


def test_a_killed_worker_costs_no_other_job(tmp_path):
    jobs = [Note(f"job{i}", tmp_path, {2: "once", 4: "always"}.get(i, "")) for i in range(8)]
    ends: dict[str, str | None] = {}
    run_in_processes(
        jobs, 2, lambda job: None, lambda job, reason: ends.update({job.name: reason}), threads=1
    )
    assert sorted(ends) == [f"job{i}" for i in range(8)]
    assert [name for name, reason in ends.items() if reason] == ["job4"]
    assert "killed" in ends["job4"]
    assert sorted(path.name for path in tmp_path.glob("job?")) == [f"job{i}" for i in range(8) if i != 4]


def numbers(out: Path) -> dict[str, object]:
    """Everything that a study measured but time: metrics, weights, predictions, analysis."""
    found: dict[str, object] = {}
    for file in sorted(out.glob("main/**/*")):
        name = str(file.relative_to(out))
        if file.name == "metrics.csv":
            found[name] = [line for line in file.read_text().splitlines() if ",seconds," not in line]
        elif file.suffix in (".safetensors", ".csv"):
            found[name] = file.read_bytes()
        elif file.suffix == ".npz":
            with np.load(file) as arrays:
                found[name] = {key: arrays[key].tolist() for key in arrays.files}
    return found


def start(file: Path, out: Path) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "alignonce",
        "study",
        "run",
        str(file),
        "--out",
        str(out),
        "--workers",
        "2",
    ]
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def run_with_kills(file: Path, out: Path, moments: Iterator[float]) -> int:
    """Kill the study again and again, until it gets done in between; return how many kills that took."""
    kills = 0
    finished: dict[Path, int] = {}
    while True:
        process = start(file, out)
        try:
            assert process.wait(timeout=next(moments)) == 0
            return kills
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        # What was finished once is never touched again.
        assert {summary: summary.stat().st_mtime_ns for summary in finished} == finished
        finished = {file: file.stat().st_mtime_ns for file in out.glob("main/runs/*/summary.json")}


def test_killed_ten_times_at_random_moments_it_ends_with_the_same_numbers(tmp_path):
    part = made_part(
        train=TRAIN | {"epochs": 12}, rules=("bp", "fa", "soft:0.5"),
        measure={"measures": ["generalisation", "flow"], "images": 50},
    )  # fmt: skip
    file = tmp_path / "made.yaml"
    file.write_text(yaml.safe_dump(made_study(parts=(part,), seeds=(0, 1, 2)).model_dump(mode="json")))

    began = time.monotonic()
    assert start(file, tmp_path / "whole").wait() == 0
    seconds = time.monotonic() - began
    whole = numbers(tmp_path / "whole")
    assert len(whole) == 9 * 3 + 3

    chance = random.Random(0)
    moments = iter(lambda: chance.uniform(0.15, 0.7) * seconds, None)
    kills = rounds = 0
    while kills < 10:
        out = tmp_path / f"cut{rounds}"
        kills += run_with_kills(file, out, moments)
        rounds += 1
        assert numbers(out) == whole
