import csv
import json
import signal
from pathlib import Path

import pytest
import torch

from alignonce.experiments.files import ensure_writable, write_atomically
from alignonce.experiments.runs.finding import find_run, free_folder
from alignonce.experiments.runs.folder import RunFolder
from alignonce.experiments.runs.scores import ACCURACY, score_of
from alignonce.experiments.training.loop import TrainingResult, evaluate, train
from alignonce.experiments.training.metrics import Measurement, Metrics, angle_deg
from helpers.small_runs import made_data, made_images, save_small_run, small_config


def test_run_comes_back_from_disk_as_it_was(tmp_path):
    saved = save_small_run(tmp_path / "run", rule="soft:0.5")
    assert RunFolder(tmp_path / "run").load() == saved


def test_saved_network_reproduces_its_test_accuracy(tmp_path):
    for model in ("mlp", "resnet"):
        record = save_small_run(tmp_path / model, model=model, width=8, rule="soft:0.5")
        data = made_images()
        loss, accuracy = evaluate(
            RunFolder(tmp_path / model).load_model(), data.test_images, data.test_labels
        )
        assert accuracy == record.summary.test_accuracy
        assert loss == record.summary.test_loss


def test_folder_is_readable_without_this_package(tmp_path):
    save_small_run(tmp_path, rule="fa")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "environment.json",
        "metrics.csv",
        "model.safetensors",
        "predictions.npz",
        "summary.json",
    ]
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["rule"], config["depth"], config["seed"]) == ("fa", 2, 0)
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["threads"] >= 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["status"], summary["data"]["name"], summary["step"]) == ("done", "made", 14)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "epoch", "metric", "layer", "value"]
    last = [row for row in rows if row["metric"] == "test_accuracy"][-1]
    assert float(last["value"]) == summary["test_accuracy"]


def test_mean_angle_leaves_out_the_layer_that_sends_no_error_back(tmp_path):
    record = save_small_run(tmp_path, rule="fa")
    last = [record.metrics.last("angle_deg", layer) for layer in ("net.hidden2", "net.output")]
    assert record.summary.mean_angle_deg == pytest.approx(sum(last) / 2)
    assert save_small_run(tmp_path / "bp", rule="bp").summary.mean_angle_deg is None


def test_finished_run_is_never_overwritten(tmp_path):
    save_small_run(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match="already holds a finished run"):
        RunFolder(tmp_path).prepare()
    with pytest.raises(FileExistsError, match="already holds a finished run"):
        save_small_run(tmp_path, rule="bp")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_interrupted_run_is_saved_and_may_be_replaced(tmp_path):
    def interrupt(progress):
        raise KeyboardInterrupt

    data, config = made_data(), small_config()
    record = RunFolder(tmp_path).save(config, data, train(config, data, interrupt))
    assert record.summary.status == "interrupted"
    assert record.summary.step == 7
    assert not RunFolder(tmp_path).is_finished()
    assert save_small_run(tmp_path).summary.status == "done"


def test_diverged_run_is_saved_without_its_useless_network(tmp_path):
    record = save_small_run(tmp_path, optimizer="sgd", learning_rate=1e12)
    assert record.summary.status == "diverged"
    assert RunFolder(tmp_path).is_finished()
    assert RunFolder(tmp_path).load().summary == record.summary
    with pytest.raises(FileNotFoundError, match="holds no network: its run diverged"):
        RunFolder(tmp_path).load_model()
    json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)


def test_empty_and_damaged_folders_are_said_plainly(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        RunFolder(tmp_path).load()
    save_small_run(tmp_path)
    (tmp_path / "config.json").write_text("{}x")
    with pytest.raises(ValueError, match=r"config\.json cannot be read"):
        RunFolder(tmp_path).load()
    (tmp_path / "config.json").write_text('{"rule": "who"}')
    with pytest.raises(ValueError, match=r"config\.json cannot be read: rule: .*unknown learning rule"):
        RunFolder(tmp_path).load()


def test_same_run_finds_its_folder_and_another_gets_its_own(tmp_path):
    data, config = made_data(), small_config()
    first = find_run(tmp_path, config, data)[0]
    assert first.path == tmp_path / "soft-0.5-seed0"
    first.save(config, data, train(config, data))
    assert find_run(tmp_path, config, data)[0] == first
    longer = small_config(epochs=3)
    assert find_run(tmp_path, longer, data)[0].path == tmp_path / "soft-0.5-seed0-2"
    assert find_run(tmp_path, config, made_data(100))[0].path == tmp_path / "soft-0.5-seed0-2"


def test_free_folder_is_numbered_and_named_after_the_run(tmp_path):
    config = small_config(data="some/folder/my set.npz", rule="fa", seed=3)
    assert free_folder(tmp_path, config).path == tmp_path / "my-set-mlp-fa-seed3"
    save_small_run(tmp_path / "my-set-mlp-fa-seed3")
    assert free_folder(tmp_path, config).path == tmp_path / "my-set-mlp-fa-seed3-2"


def test_unwritable_folder_is_found_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match="out: cannot write into"):
        ensure_writable(tmp_path / "file")
    with pytest.raises(PermissionError, match="out: cannot write into"):
        RunFolder(tmp_path / "file" / "below").prepare()


def test_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_crash_while_saving_leaves_no_finished_run(tmp_path):
    (tmp_path / "model.safetensors").mkdir()  # in the way of the file
    with pytest.raises(OSError, match=r"model\.safetensors"):
        save_small_run(tmp_path)
    assert not RunFolder(tmp_path).is_finished()


def test_run_that_measured_nothing_can_be_saved(tmp_path):
    data, config = made_data(), small_config()
    model = train(config, data).model
    record = RunFolder(tmp_path).save(
        config, data, TrainingResult("interrupted", 0, 14, 0.0, "cpu", Metrics(), model)
    )
    assert record.summary.test_accuracy is None
    assert RunFolder(tmp_path).load() == record


def test_metrics_survive_csv_exactly(tmp_path):
    metrics = Metrics(
        [Measurement(1, 1 / 3, "cosine", "a,b", 0.1 + 0.2), Measurement(2, 1.0, "loss", "", float("inf"))]
    )
    metrics.write_csv(tmp_path / "m.csv")
    assert Metrics.read_csv(tmp_path / "m.csv") == metrics
    (tmp_path / "m.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match="must begin with the columns"):
        Metrics.read_csv(tmp_path / "m.csv")
    (tmp_path / "m.csv").write_text("step,epoch,metric,layer,value\n1,x,a,,2\n")
    with pytest.raises(ValueError, match="line 2"):
        Metrics.read_csv(tmp_path / "m.csv")


def test_angles_bear_rounding():
    assert angle_deg(1 + 1e-9) == 0
    assert angle_deg(-1 - 1e-9) == 180
    assert angle_deg(0.5) == pytest.approx(60)


OLD_NAMES = {
    "train_examples": "train_images",
    "test_examples": "test_images",
    "example_shape": "image_shape",
    "outputs": "num_classes",
}


def as_version_1(facts):
    return {OLD_NAMES.get(name, name): value for name, value in facts.items()}


def test_run_of_version_1_is_read(tmp_path):
    new = save_small_run(tmp_path)
    file = tmp_path / "summary.json"
    written = json.loads(file.read_text())
    assert written.pop("version") == 2
    old = written | {
        "data": as_version_1(written["data"]), "test_bits_per_byte": None, "test_r2": None
    }  # fmt: skip
    file.write_text(json.dumps(old))
    run = RunFolder(tmp_path).load()
    assert run.summary.data == new.summary.data
    assert run.summary.test_accuracy == new.summary.test_accuracy
    assert score_of(run) is ACCURACY
    assert RunFolder(tmp_path).load_model() is not None


def test_unfinished_run_of_older_names_goes_on(tmp_path):
    config, data = small_config(), made_data()

    def stop(progress):
        signal.raise_signal(signal.SIGTERM)

    points = RunFolder(tmp_path).resume_points(config, data)
    assert train(config, data, stop, resume=points).status == "interrupted"
    file = tmp_path / "resume" / "run.json"
    written = json.loads(file.read_text())
    written["run"]["data"] = as_version_1(written["run"]["data"])
    file.write_text(json.dumps(written))
    assert RunFolder(tmp_path).resume_points(config, data).newest() is not None
