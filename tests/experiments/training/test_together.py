import math
import os
import shutil
import signal
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from alignonce.experiments.runs.folder import RunFolder
from alignonce.experiments.training import together as module
from alignonce.experiments.training.loop import train
from alignonce.experiments.training.metrics import Metrics
from alignonce.experiments.training.together import groups_of
from helpers.small_runs import made_data, small_config, without_time

FIXED_FEEDBACK = ("fa", "soft:0.5", "soft:1")


def runs_of(rules, seeds=(0, 1), **changes):
    return [small_config(rule=rule, seed=seed, **changes) for rule in rules for seed in seeds]


def assert_same(together, alone, losses=1e-5):
    """One result is the other up to rounding: the same measurements of the same things, the same network."""
    assert (together.status, together.step, together.total_steps, together.device) == (
        alone.status, alone.step, alone.total_steps, alone.device,
    )  # fmt: skip
    assert [row[:4] for row in together.metrics] == [row[:4] for row in alone.metrics]
    for metric in ("step_loss", "train_loss", "test_loss"):
        values = [result.metrics.series(metric)[1] for result in (together, alone)]
        assert values[0] == pytest.approx(values[1], rel=losses), metric
    for metric in ("train_accuracy", "test_accuracy"):
        values = [result.metrics.series(metric)[1] for result in (together, alone)]
        assert values[0] == pytest.approx(values[1], abs=1.1 / 60), metric
    for layer in alone.metrics.layers("cosine"):
        values = [result.metrics.series("cosine", layer)[1] for result in (together, alone)]
        assert values[0] == pytest.approx(values[1], abs=1e-4), layer
    assert [type(module) for module in together.model.modules()] == [type(m) for m in alone.model.modules()]
    assert together.model.training
    states = together.model.state_dict(), alone.model.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, value in states[1].items():
        if "feedback" in name:
            assert torch.equal(states[0][name], value), name
        torch.testing.assert_close(states[0][name], value, rtol=1e-3, atol=1e-3, msg=name)


# Runs as short as these would never be traced.
train_together = partial(module.train_together, calls_before_tracing=3)
looked_at_each_step = partial(train_together, steps_per_check=1)


@pytest.mark.parametrize("rules", [("bp",), FIXED_FEEDBACK, ("dfa",)], ids=["bp", "feedback", "dfa"])
@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam"},
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.01, "weight_decay": 1e-3},
    ],
    ids=["adam", "adamw", "sgd"],
)
def test_runs_together_are_those_one_by_one(rules, settings):
    data, runs = made_data(train_size=70), runs_of(rules, **settings)  # batches of 32, 32 and 6
    for together, config in zip(train_together(runs, data), runs, strict=True):
        assert_same(together, train(config, data))


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "cosine", "warmup": 0.3},
        {"clip": 0.5},
        {"augment": "shift-mirror"},
    ],
    ids=["schedule", "clip", "augment"],
)
def test_settings_of_the_loop_hold_for_each_run_as_for_one_alone(settings):
    sgd = {"optimizer": "sgd", "learning_rate": 0.05}
    data, runs = made_data(train_size=70), runs_of(FIXED_FEEDBACK, **sgd, **settings)
    plain = train(small_config(rule="fa", **sgd), data).metrics.series("step_loss")[1]
    for together, config in zip(train_together(runs, data), runs, strict=True):
        assert_same(together, train(config, data), losses=1e-4)
        assert together.metrics.series("step_loss")[1] != pytest.approx(plain, rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"model": "resnet", "depth": 1, "width": 4, "norms": "exact"},
        {"model": "resnet", "depth": 1, "width": 4, "norms": "fixed"},
        {"depth": 3, "hidden_norm": "batch", "shortcuts": True, "norms": "fixed"},
        {"depth": 3, "hidden_norm": "layer", "feedback_scale": 2.0},
    ],
    ids=["resnet", "resnet-fixed-norms", "batch-norm", "layer-norm"],
)
def test_networks_with_norms_keep_running_statistics_of_their_own(settings):
    settings = {"optimizer": "sgd", "learning_rate": 0.01} | settings
    data, runs = made_data(train_size=70), runs_of(["fa", "soft:0.5"], **settings)
    for together, config in zip(train_together(runs, data), runs, strict=True):
        assert_same(together, train(config, data), losses=1e-4)


def test_runs_that_differ_end_differently():
    results = train_together(runs_of(FIXED_FEEDBACK), made_data())
    weights = [result.model.state_dict()["net.hidden1.weight"] for result in results]
    assert not any(torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])


def test_each_run_diverges_at_its_own_step():
    data, runs = made_data(), runs_of(["fa", "soft:0.5"], optimizer="sgd", learning_rate=1e12, epochs=3)
    results = train_together(runs, data)
    assert {result.status for result in results} == {"diverged"}
    for together, config in zip(results, runs, strict=True):
        alone = train(config, data)
        assert together.step == alone.step
        assert [row[:4] for row in together.metrics] == [row[:4] for row in alone.metrics]
        assert not math.isfinite(together.metrics.last("step_loss"))


@pytest.mark.parametrize("check", [1, 3, 20])
def test_a_diverging_run_leaves_the_others_as_they_are(check):
    data, runs = made_data(), runs_of(["fa", "soft:0.5"], optimizer="sgd", learning_rate=0.01)
    undisturbed = train_together(runs, data, steps_per_check=check)
    with broken_in_step(5, run=1):
        results = train_together(runs, data, steps_per_check=check)
    assert [result.status for result in results] == ["done", "diverged", "done", "done"]
    assert results[1].step == 6
    assert len(results[1].metrics.series("step_loss")[1]) == 6
    for index in (0, 2, 3):
        assert without_time(results[index].metrics) == without_time(undisturbed[index].metrics)


def test_divergence_in_the_very_last_step_is_found():
    with broken_in_step(14, run=0):
        results = train_together(runs_of(["fa"], optimizer="sgd"), made_data())
    assert [(result.status, result.step) for result in results] == [("diverged", 14), ("done", 14)]


@contextmanager
def broken_in_step(step, run):
    steps = []

    @torch.no_grad()
    def break_it(optimizer, args, kwargs):
        steps.append(1)
        if len(steps) == step:
            optimizer.param_groups[0]["params"][0][run].fill_(math.nan)

    handle = register_optimizer_step_post_hook(break_it)
    try:
        yield
    finally:
        handle.remove()


def test_interrupt_keeps_what_was_measured():
    def interrupt(progress):
        if progress.step == 10:
            raise KeyboardInterrupt

    data, runs = made_data(), runs_of(["fa"], epochs=30)
    whole = train_together(runs_of(["fa"]), data)
    for result, reference in zip(looked_at_each_step(runs, data, interrupt), whole, strict=True):
        assert (result.status, result.step) == ("interrupted", 10)
        kept = without_time(result.metrics)
        assert kept == without_time(reference.metrics)[: len(kept)]
        assert len(result.metrics.series("step_loss")[1]) == 10


def test_sigterm_ends_all_runs_after_the_present_step():
    ended = looked_at_each_step(
        runs_of(["fa"]), made_data(),
        lambda progress: os.kill(os.getpid(), signal.SIGTERM) if progress.step == 3 else None,
    )  # fmt: skip
    assert [(result.status, result.step) for result in ended] == [("interrupted", 3)] * 2


def points_of(folder, runs, data):
    folders = [RunFolder(folder / f"{run.rule}-{run.seed}") for run in runs]
    for one in folders:
        one.path.mkdir(parents=True, exist_ok=True)
    return [one.resume_points(run, data) for one, run in zip(folders, runs, strict=True)]


def stop_at(step):
    return lambda progress: os.kill(os.getpid(), signal.SIGTERM) if progress.step == step else None


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{"augment": "shift"}, {"optimizer": "sgd", "model": "resnet", "depth": 1, "width": 4}],
    ids=["adam-augment", "sgd-resnet"],
)
def test_resumed_runs_end_as_those_that_never_stopped(tmp_path, settings):
    data, runs = made_data(), runs_of(["fa", "soft:0.5"], **settings)
    whole = looked_at_each_step(runs, data)
    points = points_of(tmp_path, runs, data)
    for step in (3, 10):
        stopped = looked_at_each_step(runs, data, stop_at(step), resume=points)
        assert [(result.status, result.step) for result in stopped] == [("interrupted", step)] * 4
    for resumed, reference in zip(looked_at_each_step(runs, data, resume=points), whole, strict=True):
        assert resumed.status == "done"
        assert without_time(resumed.metrics) == without_time(reference.metrics)
        torch.testing.assert_close(
            resumed.model.state_dict(), reference.model.state_dict(), rtol=0, atol=0, equal_nan=True
        )


def test_runs_go_on_from_the_newest_step_that_all_have_and_alone_too(tmp_path):
    data, runs = made_data(), runs_of(["fa", "soft:0.5"], seeds=(0,))
    points = points_of(tmp_path, runs, data)
    for step in (3, 5):
        looked_at_each_step(runs, data, stop_at(step), resume=points)
    shutil.rmtree(points[1].folder / "step-000005")
    reports = []
    results = looked_at_each_step(runs, data, reports.append, resume=points)
    assert reports[0].step == 4
    assert_same(results[0], train(runs[0], data))
    assert [point.newest().step for point in points] == [5, 3]
    assert_same(train(runs[1], data, resume=points[1]), train(runs[1], data))
    shutil.rmtree(points[1].folder)
    anew = []
    looked_at_each_step(runs, data, anew.append, resume=points)
    assert anew[0].step == 1


def test_a_run_that_has_diverged_does_not_go_on_when_the_others_do(tmp_path):
    data, runs = made_data(), runs_of(["fa"], optimizer="sgd")
    points = points_of(tmp_path, runs, data)
    with broken_in_step(5, run=1):
        looked_at_each_step(runs, data, stop_at(9), resume=points)
    results = looked_at_each_step(runs, data, resume=points)
    assert [(result.status, result.step) for result in results] == [("done", 14), ("diverged", 6)]
    assert len(results[1].metrics.series("step_loss")[1]) == 6


def test_checkpoints_are_those_of_the_runs_one_by_one():
    data, runs = made_data(), runs_of(["fa", "soft:0.5"], seeds=(3,), checkpoints=3)
    kept = {}
    train_together(
        runs, data, on_checkpoint=lambda run, step, net: kept.update({(run, step): copy_of(net.state_dict())})
    )
    assert sorted(kept) == [(run, step) for run in (0, 1) for step in (0, 7, 14)]
    for index, config in enumerate(runs):
        alone = {}
        train(
            config, data,
            on_checkpoint=lambda step, net, alone=alone: alone.update({step: copy_of(net.state_dict())}),
        )  # fmt: skip
        for step, state in alone.items():
            torch.testing.assert_close(kept[index, step], state, rtol=1e-4, atol=1e-4)


def copy_of(state):
    return {name: value.clone() for name, value in state.items()}


def test_measurements_go_where_they_are_wanted():
    places = [Metrics(), Metrics()]
    results = train_together(runs_of(["fa"]), made_data(), metrics=places)
    assert [result.metrics for result in results] == places
    assert all(result.metrics is place for result, place in zip(results, places, strict=True))
    assert all(len(place) > 14 for place in places)


def test_progress_reports_steps_and_mean_test_accuracy():
    reports = []
    results = train_together(runs_of(["fa"], epochs=4), made_data(), reports.append)
    assert [report.step for report in reports] == [7, 14, 21, 28]
    assert {report.total_steps for report in reports} == {28}
    accuracies = [result.metrics.last("test_accuracy") for result in results]
    assert reports[-1].test_accuracy == pytest.approx(sum(accuracies) / 2)


def test_global_random_state_is_untouched():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train_together(runs_of(["fa"]), made_data())
    assert torch.equal(torch.get_rng_state(), before)


def test_groups_hold_runs_that_differ_in_seed_and_rule_only():
    runs = [*runs_of(["bp", "fa", "soft:0.5", "dfa"]), *runs_of(["fa", "sign"], width=8)]
    groups = groups_of(runs)
    assert [group.runs for group in groups] == [(0, 1), (2, 3, 4, 5), (6, 7), (8, 9, 10, 11)]
    assert not any(group.alone for group in groups)


def test_a_run_that_trains_alone_has_a_reason():
    runs = [
        *runs_of(["kp", "fa", "usf"], seeds=(0,)),
        small_config(rule="soft:1", compile=True),
        small_config(rule="soft:1", batch_size=8),
        *runs_of(["soft:0", "mirror", "periodic:10"], seeds=(0,)),
        small_config(rule="fa", model="vgg", depth=11),
        small_config(rule="fa", format="sign"),
    ]
    groups = {group.runs: group.alone for group in groups_of(runs)}
    assert list(groups) == [(0,), (1, 5), (2,), (3,), (4,), (6,), (7,), (8,), (9,)]
    assert not groups[1, 5]
    assert all("feedback weights" in groups[index,] for index in (0, 2, 6, 7))
    assert "compile=True" in groups[3,]
    assert "vgg" in groups[8,]
    assert "format=sign" in groups[9,]
    assert "no other run" in groups[4,]


def test_large_groups_are_split():
    groups = groups_of(runs_of(["fa"], seeds=range(7)), at_most=3)
    assert [group.runs for group in groups] == [(0, 1, 2), (3, 4, 5), (6,)]
    with pytest.raises(ValueError, match="at_most must be 1 or more, got 0"):
        groups_of([], at_most=0)


def test_runs_that_are_no_group_are_refused():
    data = made_data()
    with pytest.raises(ValueError, match="at least one run"):
        train_together([], data)
    with pytest.raises(ValueError, match="differ only in seed and rule"):
        train_together(runs_of(["bp", "fa"]), data)
    with pytest.raises(ValueError, match="differ only in seed and rule"):
        train_together([small_config(rule="fa"), small_config(rule="fa", width=8)], data)
    with pytest.raises(ValueError, match=r"run kp:.*, seed 0, cannot be trained in a stack"):
        train_together(runs_of(["fa", "kp"]), data)
