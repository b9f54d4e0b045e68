"""A run that was stopped and resumed ends as one that never stopped, to the bit; nothing good is lost."""

import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from alignonce.experiments.runs.finding import find_run, free_folder
from alignonce.experiments.runs.folder import RunFolder
from alignonce.experiments.runs.train_into import train_and_save
from alignonce.experiments.tasks import ImageClassification
from alignonce.experiments.training.loop import train
from alignonce.experiments.training.resuming import ResumePoint, ResumePoints, SaveEvery
from alignonce.experiments.training.tracking import build_tracker
from helpers.small_runs import made_data, small_config, without_time

pytestmark = pytest.mark.faults

FILES = ("state.safetensors", "state.json", "SHA256SUMS")
IDENTITY = {"config": {"epochs": 2}, "data": {"name": "made"}}


def same_state(first, second):
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def send(number, at_step):
    """What sends this process a signal when the run reports this step."""

    def on_progress(progress):
        if progress.step == at_step:
            os.kill(os.getpid(), number)

    return on_progress


def interrupted(folder, config, data, number=signal.SIGTERM, at_step=7, tracker=None, every=None):
    """Start a run in a folder and stop it by a signal; its resume points."""
    RunFolder(folder).path.mkdir(parents=True, exist_ok=True)
    points = RunFolder(folder).resume_points(config, data, tracker, every)
    result = train(config, data, send(number, at_step), tracker=tracker, resume=points)
    assert result.status == "interrupted"
    assert result.step < result.total_steps
    return points


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "changes",
    [
        {"rule": "bp"},
        {"rule": "soft:0.5", "optimizer": "sgd"},
        {"rule": "soft:0.5", "format": "low-rank:2", "clip": 0.1, "accumulate": 3},
        {"rule": "soft:0.5", "augment": "shift-mirror", "accumulate": 2},
        {"rule": "kp", "optimizer": "adamw", "weight_decay": 0.01},
        {"rule": "mirror"},
        {"rule": "brsf"},
        {"rule": "periodic:3"},
        {"rule": "dfa"},
        {"rule": "fa", "model": "resnet", "width": 4, "norms": "fixed"},
        {"rule": "fa", "precision": "bf16-mixed"},
        pytest.param(
            {"rule": "soft:0.5", "compile": True},
            # The compiler makes an instance of autograd.Function, against its own advice.
            marks=pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
        ),
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_resumed_run_ends_bit_for_bit_as_one_that_never_stopped(tmp_path, changes, number):
    data, config = made_data(), small_config(**({"epochs": 3} | changes))
    whole = train(config, data)
    points = interrupted(tmp_path, config, data, number)
    resumed = train(config, data, resume=points)
    assert resumed.status == "done"
    assert same_state(resumed.model, whole.model)
    assert without_time(resumed.metrics) == without_time(whole.metrics)
    times = resumed.metrics.series("seconds")[1]
    assert times == sorted(times)


@pytest.mark.parametrize("every", [1, 4, 7])
def test_run_resumes_from_any_point_of_an_epoch(tmp_path, every):
    data, config = made_data(), small_config(rule="kp", checkpoints=5, epochs=3)
    whole = train(config, data)
    for stop in range(1, whole.total_steps, 4):
        folder = tmp_path / str(stop)
        points = RunFolder(folder).resume_points(config, data, every=SaveEvery(None, every))

        def stop_at(step, model, stop=stop):
            if step >= stop:
                raise MemoryError  # any end without warning

        with pytest.raises(MemoryError):
            train(config, data, on_checkpoint=stop_at, resume=points)
        resumed = train(config, data, resume=points)
        assert same_state(resumed.model, whole.model)
        assert without_time(resumed.metrics) == without_time(whole.metrics)


def test_saving_changes_nothing_of_what_is_learnt(tmp_path):
    data, config = made_data(), small_config(rule="soft:0.5")
    points = RunFolder(tmp_path).resume_points(config, data, every=SaveEvery(None, 1))
    plain, saved = train(config, data), train(config, data, resume=points)
    assert same_state(plain.model, saved.model)
    assert without_time(plain.metrics) == without_time(saved.metrics)
    assert len(list((tmp_path / "resume").glob("step-*"))) == 2


class Dropping(ImageClassification):
    """A task whose network draws random numbers as it learns."""

    def build_model(self, config):
        model = super().build_model(config)
        model.net.output.register_forward_pre_hook(lambda net, x: F.dropout(x[0], 0.5, net.training))
        return model


def test_random_numbers_of_the_network_go_on_where_they_stopped(tmp_path):
    data, config = made_data(), small_config(epochs=3)
    torch.manual_seed(1)
    whole = train(config, Dropping(data.images))
    torch.manual_seed(2)
    assert same_state(train(config, Dropping(data.images)).model, whole.model)
    points = RunFolder(tmp_path).resume_points(config, data)
    assert (
        train(config, Dropping(data.images), send(signal.SIGTERM, 7), resume=points).status == "interrupted"
    )
    assert same_state(train(config, Dropping(data.images), resume=points).model, whole.model)
    other = train(config.model_copy(update={"seed": 1}), Dropping(data.images))
    assert not same_state(other.model, whole.model)


def test_tracked_measures_go_on(tmp_path):
    data, config = made_data(), small_config(rule="fa", epochs=3)
    tracker = build_tracker(["alignment"], 3, config, data)
    whole = train(config, data, tracker=tracker)
    points = interrupted(tmp_path, config, data, tracker=build_tracker(["alignment"], 3, config, data))
    resumed = train(config, data, tracker=build_tracker(["alignment"], 3, config, data), resume=points)
    assert list(resumed.diagnostics) == list(whole.diagnostics)


def test_interrupted_command_goes_on_and_cleans_up(tmp_path):
    data, config = made_data(), small_config(rule="soft:0.5", checkpoints=4, epochs=3)
    whole = train_and_save(config, data, RunFolder(tmp_path / "whole"))
    with pytest.MonkeyPatch.context() as patch:
        from alignonce.experiments.runs import train_into

        def stopped(config, data, on_progress, **options):
            return train(config, data, send(signal.SIGTERM, 7), **options)

        patch.setattr(train_into, "train", stopped)
        first = train_and_save(config, data, RunFolder(tmp_path / "run"))
    assert first.summary.status == "interrupted"
    assert (tmp_path / "run" / "resume").exists()
    folder = RunFolder(tmp_path / "run")
    assert find_run(tmp_path, config, data)[0].path != folder.path
    second = train_and_save(config, data, folder)
    assert second.summary.status == "done"
    assert same_state(folder.load_model(), RunFolder(tmp_path / "whole").load_model())
    assert without_time(second.metrics) == without_time(whole.metrics)
    assert folder.checkpoint_steps() == [0, 7, 14, 21]
    assert not (tmp_path / "run" / "resume").exists()


def test_second_signal_stops_at_once(tmp_path):
    def twice(progress):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    result = train(small_config(), made_data(), twice)
    assert (result.status, result.step) == ("interrupted", 7)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_process_that_was_told_to_ignore_ctrl_c_goes_on_ignoring_it():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert train(small_config(), made_data(), send(signal.SIGINT, 7)).status == "done"
    finally:
        signal.signal(signal.SIGINT, before)


def damage(file, how):
    data = bytearray(file.read_bytes())
    if how == "truncated":
        data = data[: len(data) // 2]
    elif how == "bit flipped":
        data[len(data) // 2] ^= 4
    file.unlink()
    if how != "missing":
        file.write_bytes(data)


@pytest.mark.parametrize("how", ["truncated", "bit flipped", "missing"])
@pytest.mark.parametrize("name", FILES)
def test_damaged_point_is_passed_over_for_the_one_before(tmp_path, name, how):
    data, config = made_data(), small_config(rule="kp", epochs=3)
    points = interrupted(tmp_path, config, data, every=SaveEvery(None, 5), at_step=14)
    newest = sorted((tmp_path / "resume").glob("step-*"))[-1]
    damage(newest / name, how)
    with pytest.warns(UserWarning, match=f"{newest.name} is damaged and passed over"):
        resumed = train(config, data, resume=points)
    assert same_state(resumed.model, train(config, data).model)


def test_where_all_points_are_damaged_nothing_is_begun_or_removed(tmp_path):
    data, config = made_data(), small_config(epochs=3)
    points = interrupted(tmp_path, config, data, every=SaveEvery(None, 5), at_step=14)
    for folder in (tmp_path / "resume").glob("step-*"):
        damage(folder / "state.safetensors", "bit flipped")
    before = content(tmp_path)
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(ValueError, match=r"all points in .* are damaged; remove that folder to begin anew"),
    ):
        train(config, data, resume=points)
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"format": 2}, "was written in format 2, and this version of alignonce reads format 1"),
        ({"format": "new"}, "was written in format 'new'"),
        ({"run": 3}, r"run\.json cannot be read"),
        ({"run": None}, r"run\.json cannot be read"),
    ],
)
def test_folder_of_another_version_is_refused_and_left_alone(tmp_path, written, message):
    data, config = made_data(), small_config(epochs=3)
    interrupted(tmp_path, config, data)
    file = tmp_path / "resume" / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | written))
    before = content(tmp_path)
    with pytest.raises(ValueError, match=message):
        train_and_save(config, data, RunFolder(tmp_path))
    after = content(tmp_path)
    after.pop(next(path for path in after if path.name == ".lock"))
    assert after == before


def test_unfinished_run_goes_on_as_itself_only(tmp_path):
    data, config = made_data(), small_config(rule="fa", epochs=3)
    interrupted(tmp_path / "fa-seed0", config, data)
    before = content(tmp_path / "fa-seed0" / "resume")
    other = config.model_copy(update={"epochs": 4, "clip": 1.0})
    message = r"unfinished run with epochs 3 there, 4 here, clip None there, 1\.0 here: finish that one"
    with pytest.raises(ValueError, match=message):
        train_and_save(other, data, RunFolder(tmp_path / "fa-seed0"))
    with pytest.raises(ValueError, match=r"train_examples 200 there, 100 here"):
        train_and_save(config, made_data(100), RunFolder(tmp_path / "fa-seed0"))
    assert content(tmp_path / "fa-seed0" / "resume") == before
    assert find_run(tmp_path, config, data)[0].path.name == "fa-seed0"
    assert find_run(tmp_path, other, data)[0].path.name == "fa-seed0-2"


def test_how_a_run_is_computed_may_change(tmp_path):
    data, config = made_data(), small_config(rule="fa", epochs=3)
    points = interrupted(tmp_path, config, data)
    in_parts = config.model_copy(update={"accumulate": 2})
    resumed = train(in_parts, data, resume=RunFolder(tmp_path).resume_points(in_parts, data))
    assert points.exist()
    whole = train(config, data)
    for metric in ("step_loss", "test_loss"):
        assert resumed.metrics.series(metric)[1] == pytest.approx(whole.metrics.series(metric)[1], rel=1e-4)


def test_two_processes_do_not_work_in_one_folder(tmp_path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path; from alignonce.experiments.files import locked\n"
            "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(100)",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError, match=f"another process is at work in {tmp_path}"):
            train_and_save(small_config(), made_data(), RunFolder(tmp_path))
        name = tmp_path.parent / "made-mlp-soft-0.5-seed0"
        shutil.copytree(tmp_path, name)
        assert free_folder(tmp_path.parent, small_config()).path == name
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert train_and_save(small_config(), made_data(), RunFolder(tmp_path)).summary.status == "done"


def test_folder_in_use_is_not_free(tmp_path):
    from alignonce.experiments.files import locked

    folder = free_folder(tmp_path, small_config()).path
    folder.mkdir()
    with locked(folder):
        assert free_folder(tmp_path, small_config()).path == folder.with_name(f"{folder.name}-2")
    assert free_folder(tmp_path, small_config()).path == folder


def point(step, size=1000, rows=1):
    return ResumePoint(step, {"a": torch.full((size,), float(step))}, {"metrics": [1.5, float("inf")] * rows})


def test_point_reads_back_as_it_was(tmp_path):
    points = ResumePoints(tmp_path, IDENTITY)
    points.write(point(3))
    newest = ResumePoints(tmp_path, IDENTITY).newest()
    assert newest.step == 3
    assert torch.equal(newest.tensors["a"], torch.full((1000,), 3.0))
    assert newest.facts == {"metrics": [1.5, float("inf")]}


@pytest.mark.parametrize(
    ("most_bytes", "size", "rows"), [(0, 1000, 1), (100, 1000, 1), (4000, 1000, 1), (4000, 10, 1000)]
)
def test_full_disk_keeps_the_last_good_point(tmp_path, most_bytes, size, rows):
    points = ResumePoints(tmp_path, IDENTITY)
    points.write(point(3))
    before = content(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A file that may not grow fails as on a full disk, in Python and in safetensors alike.
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        with pytest.warns(UserWarning, match="no resume point of step 4 could be written: .*File too large"):
            points.write(point(4, size, rows))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert content(tmp_path) == before
    assert points.newest().step == 3
    points.write(point(5))
    assert points.newest().step == 5


def test_run_goes_on_when_no_point_can_be_written(tmp_path):
    data, config = made_data(), small_config()
    points = RunFolder(tmp_path).resume_points(config, data, every=SaveEvery(None, 7))
    (tmp_path / "resume").write_text("in the way")
    with pytest.warns(UserWarning, match=r"no resume point of step (7|14) could be written"):
        result = train(config, data, resume=points)
    assert same_state(result.model, train(config, data).model)


def test_run_that_cannot_be_saved_can_still_be_finished(tmp_path):
    data, config = made_data(), small_config()
    # A folder in the way of the file fails as a full disk does: when the run is saved, at its end.
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        train_and_save(config, data, RunFolder(tmp_path), every=SaveEvery(None, 7))
    (tmp_path / "model.safetensors").rmdir()
    assert not RunFolder(tmp_path).is_finished()
    assert len(list((tmp_path / "resume").glob("step-*"))) == 2
    assert train_and_save(config, data, RunFolder(tmp_path)).summary.status == "done"
    assert same_state(RunFolder(tmp_path).load_model(), train(config, data).model)


def test_the_two_newest_points_are_kept_and_half_written_ones_removed(tmp_path):
    points = ResumePoints(tmp_path, IDENTITY)
    (tmp_path / "resume" / ".unfinished-1").mkdir(parents=True)
    for step in (1, 2, 10, 200):
        points.write(point(step))
    assert sorted(path.name for path in (tmp_path / "resume").iterdir()) == [
        "run.json",
        "step-000010",
        "step-000200",
    ]
    assert points.newest().step == 200


def test_point_of_the_same_step_is_not_written_twice(tmp_path):
    points = ResumePoints(tmp_path, IDENTITY)
    points.write(point(3))
    before = (tmp_path / "resume" / "step-000003").stat().st_ino
    points.write(dataclasses.replace(point(3)))
    assert (tmp_path / "resume" / "step-000003").stat().st_ino == before
    damage(tmp_path / "resume" / "step-000003" / "state.json", "truncated")
    points.write(point(3))
    assert points.newest().step == 3


@pytest.mark.parametrize(("seconds", "steps"), [(0, None), (-1, None), (None, 0), (float("nan"), None)])
def test_senseless_intervals_are_refused(seconds, steps):
    with pytest.raises(ValueError, match=r"save-every-(seconds|steps) must be positive, got"):
        SaveEvery(seconds, steps)


def test_points_are_due_by_steps_or_by_time(tmp_path):
    now = 100.0
    points = ResumePoints(tmp_path, IDENTITY, SaveEvery(60, 10), clock=lambda: now)
    assert not points.due(9)
    assert points.due(10)
    now += 60
    assert points.due(1)
    points.write(point(1))
    assert not points.due(10)
    assert not ResumePoints(tmp_path, IDENTITY, SaveEvery(None, None)).due(10**9)
