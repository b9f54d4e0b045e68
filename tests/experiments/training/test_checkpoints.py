import pytest
import torch

from alignonce import feedback_weights
from alignonce.cli.main import main
from alignonce.diagnostics import Tracker, compare_gradients
from alignonce.experiments.facts import Facts
from alignonce.experiments.runs.folder import RunFolder
from alignonce.experiments.runs.train_into import train_and_save
from alignonce.experiments.training.checkpoints import checkpoint_steps
from alignonce.experiments.training.loop import as_pixels, train
from alignonce.experiments.training.tracking import build_tracker
from helpers.small_runs import made_data, small_config, without_time

ALL = ("alignment", "gradients", "flow")


def same_state(first, second):
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    ("count", "steps"), [(0, []), (1, [14]), (2, [0, 14]), (4, [0, 5, 9, 14]), (40, list(range(15)))]
)
def test_checkpoints_are_spread_evenly_from_start_to_end(count, steps):
    assert checkpoint_steps(count, 14) == steps


@pytest.mark.parametrize("rule", ["fa", "kp"])
def test_checkpoints_hold_the_network_of_their_step(tmp_path, rule):
    data, config = made_data(), small_config(rule=rule, checkpoints=3)
    train_and_save(config, data, RunFolder(tmp_path))
    folder = RunFolder(tmp_path)
    assert folder.checkpoint_steps() == [0, 7, 14]
    start = data.build_model(config)
    assert same_state(folder.load_model(step=0), start)
    assert same_state(folder.load_model(step=14), folder.load_model())
    # One epoch of the same batches ends where the first of two does.
    assert same_state(folder.load_model(7), train(small_config(rule=rule, epochs=1), data).model)
    assert any(True for _ in feedback_weights(folder.load_model(7)))
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 8; there are: 0 7 14"):
        folder.load_model(step=8)


def test_checkpoints_do_not_change_the_run(tmp_path):
    data = made_data()
    plain = train(small_config(rule="soft:0.5"), data)
    kept = train(small_config(rule="soft:0.5", checkpoints=5), data)
    assert same_state(plain.model, kept.model)
    assert without_time(plain.metrics) == without_time(kept.metrics)
    train_and_save(small_config(), data, RunFolder(tmp_path))
    assert not (tmp_path / "checkpoints").exists()
    assert not (tmp_path / "diagnostics.csv").exists()


def test_checkpoints_of_an_unfinished_run_are_not_left_to_the_next(tmp_path):
    folder = RunFolder(tmp_path)
    folder.save_checkpoint(3, torch.nn.Linear(2, 2))
    train_and_save(small_config(checkpoints=2), made_data(), folder)
    assert folder.checkpoint_steps() == [0, 14]


def test_a_broken_network_is_no_checkpoint():
    steps = []
    config = small_config(optimizer="sgd", learning_rate=1e12, rule="fa", checkpoints=15)
    result = train(config, made_data(), on_checkpoint=lambda step, _: steps.append(step))
    assert result.status == "diverged"
    assert steps
    assert steps[-1] < result.step


@pytest.mark.parametrize("model", ["mlp", "resnet"])
@pytest.mark.parametrize("rule", ["bp", "soft:0.5", "kp", "mirror", "dfa"])
def test_tracking_changes_nothing_of_what_is_learnt(model, rule):
    data = made_data()
    config = small_config(model=model, rule=rule, depth=1, width=4, epochs=1)
    plain = train(config, data)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    tracked = train(config, data, tracker=build_tracker(ALL, 2, config, data))
    assert torch.equal(torch.get_rng_state(), before)
    assert same_state(plain.model, tracked.model)
    assert without_time(plain.metrics) == without_time(tracked.metrics)
    assert {row.step for row in tracked.diagnostics} == {0, 2, 4, 6}


def test_tracked_numbers_are_those_of_the_diagnostics():
    data, config = made_data(), small_config(rule="fa")
    result = train(config, data, tracker=build_tracker(["gradients"], 14, config, data))
    some = data.images.limited(256)
    batch = as_pixels(some.train_images), some.train_labels
    found = compare_gradients(result.model, batch, torch.nn.functional.cross_entropy)
    rows = {
        row.layer: row.value
        for row in result.diagnostics
        if (row.step, row.measure) == (14, "gradient.weight.angle_deg")
    }
    assert rows == {layer: agreement.angle_deg for layer, agreement in found.weight.items()}


def test_any_tracker_may_be_given():
    tracker = Tracker({"norm": lambda m: sum(p.norm().item() for p in m.parameters())}, steps=[3, 14])
    result = train(small_config(), made_data(), tracker=tracker)
    assert [row.step for row in result.diagnostics] == [3, 14]


def test_tracking_a_run_that_diverges_ends_it_as_diverged():
    config = small_config(rule="fa", optimizer="sgd", learning_rate=1e12)
    data = made_data()
    result = train(config, data, tracker=build_tracker(ALL, 1, config, data))
    assert (result.status, result.step) == ("diverged", train(config, data).step)


def test_command_line_tracks_and_keeps_checkpoints(tmp_path, capsys):
    out = tmp_path / "run"
    args = ["train", "--data", "digits", "--limit", "100", "--depth", "1", "--width", "8", "--epochs", "1"]
    args += ["--device", "cpu", "--rule", "fa", "--out", str(out)]
    assert main([*args, "--checkpoints", "2", "--track", "alignment", "flow", "--track-every", "1"]) == 0
    assert RunFolder(out).checkpoint_steps() == [0, 1]
    tracked = Facts.read_csv(out / "diagnostics.csv")
    assert tracked.distinct("run", "rule", "group") == [("run", "fa", "tracked")]
    assert tracked.distinct("step") == [0, 1]
    assert {fact.measure.split(".")[0] for fact in tracked} == {"weight", "signal", "flow"}
    assert main([*args[:-1], str(tmp_path / "b"), "--track", "flow", "--track-every", "0"]) == 2
    assert "track-every must be 1 or more" in capsys.readouterr().err
