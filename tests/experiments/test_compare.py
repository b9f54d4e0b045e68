import csv
import io

import pytest
import torch
from rich.console import Console

from alignonce.experiments.compare import compare, comparison_table
from alignonce.experiments.config.run import CompareConfig
from alignonce.experiments.runs.folder import RunFolder
from alignonce.experiments.runs.train_into import train_and_save
from alignonce.experiments.tasks import ImageClassification
from alignonce.experiments.training.loop import train
from helpers.small_runs import WatchedTask, made_data, made_images, small_config, without_time


def small_comparison(**changes) -> CompareConfig:
    shared = small_config().model_dump(exclude={"rule", "seed"})
    return CompareConfig(**(shared | {"rules": ("bp", "fa", "soft:0.5")} | changes))


def printed(table) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(table)
    return console.file.getvalue()


def test_comparison_writes_all_runs_and_files(tmp_path):
    result = compare(small_comparison(seeds=(0, 1)), made_data(), tmp_path)
    assert len(result.runs) == 6
    assert not result.interrupted
    assert {file.name for file in result.files} == {"compare.csv", "compare.png", "compare.pdf"}
    assert all(file.stat().st_size > 0 for file in result.files)
    with (tmp_path / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["rule"], row["seed"], row["status"]) for row in rows[:2]] == [
        ("bp", "0", "done"),
        ("fa", "0", "done"),
    ]
    for row, run in zip(rows, result.runs, strict=True):
        assert float(row["test_accuracy"]) == run.summary.test_accuracy
        assert RunFolder(tmp_path / row["folder"]).load() == run


def test_runs_of_a_comparison_are_those_done_alone(tmp_path):
    together = compare(small_comparison(), made_data(), tmp_path)
    for run in together.runs:
        alone = train(run.config, made_data())
        assert without_time(alone.metrics) == without_time(run.metrics)


def test_table_names_rules_spread_and_status(tmp_path):
    result = compare(small_comparison(seeds=(0, 1)), made_data(), tmp_path)
    text = printed(comparison_table(result.runs))
    for part in ("backpropagation", "random feedback", "soft alignment 0.5", "±", "°", "done"):
        assert part in text
    assert "±" not in printed(comparison_table(result.runs[:3]))


def not_to_be_learnt() -> WatchedTask:
    return WatchedTask(made_images(), on_model=lambda config, model: pytest.fail("trained in vain"))


def test_second_comparison_skips_what_is_finished(tmp_path):
    first = compare(small_comparison(), made_data(), tmp_path)
    second = compare(small_comparison(), not_to_be_learnt(), tmp_path)
    assert second.skipped == 3
    assert second.runs == first.runs


def test_more_rules_are_added_to_a_finished_comparison(tmp_path):
    compare(small_comparison(rules=("bp",)), made_data(), tmp_path)
    result = compare(small_comparison(rules=("bp", "fa")), made_data(), tmp_path)
    assert (result.skipped, len(result.runs)) == (1, 2)


def test_other_configuration_in_the_same_folder_keeps_the_old_runs(tmp_path):
    old = compare(small_comparison(rules=("fa",)), made_data(), tmp_path)
    new = compare(small_comparison(rules=("fa",), epochs=1), made_data(), tmp_path)
    assert new.skipped == 0
    assert new.runs[0].folder == tmp_path / "fa-seed0-2"
    assert RunFolder(old.runs[0].folder).load() == old.runs[0]


def test_run_that_diverges_does_not_stop_the_others(tmp_path):
    @torch.no_grad()
    def break_under_fa(config, model):
        if config.rule == "fa":
            model.get_parameter("net.output.weight").fill_(float("inf"))

    result = compare(small_comparison(), WatchedTask(made_images(), on_model=break_under_fa), tmp_path)
    assert [run.summary.status for run in result.runs] == ["done", "diverged", "done"]
    text = printed(comparison_table(result.runs))
    assert f"diverged at step {result.runs[1].summary.step}" in text


def test_all_runs_may_diverge(tmp_path):
    config = small_comparison(optimizer="sgd", learning_rate=1e12)
    result = compare(config, made_data(), tmp_path)
    assert {run.summary.status for run in result.runs} == {"diverged"}
    assert printed(comparison_table(result.runs)).count("diverged at step") == 3


def test_interrupt_saves_the_run_stops_and_goes_on_next_time(tmp_path):
    rules = []

    def press_ctrl_c(images):
        if rules[-1] == "fa":
            raise KeyboardInterrupt

    def note(config, model):
        rules.append(config.rule)

    task = WatchedTask(made_images(), on_model=note, on_batch=press_ctrl_c)
    result = compare(small_comparison(), task, tmp_path)
    assert result.interrupted
    assert [run.summary.status for run in result.runs] == ["done", "interrupted"]
    assert all(file.exists() for file in result.files)
    again = compare(small_comparison(), made_data(), tmp_path)
    assert again.skipped == 1
    assert [run.summary.status for run in again.runs] == ["done"] * 3
    assert [run.folder.name for run in again.runs] == ["bp-seed0", "fa-seed0", "soft-0.5-seed0"]


def test_interrupt_before_any_measurement_is_passed_on(tmp_path):
    def press_ctrl_c(config, model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(small_comparison(), WatchedTask(made_images(), on_model=press_ctrl_c), tmp_path)


def test_unwritable_folder_is_found_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match="out: cannot write into"):
        compare(small_comparison(), not_to_be_learnt(), tmp_path / "file")


def test_saved_configuration_names_the_data_that_stood_in(tmp_path):
    import dataclasses

    digits = ImageClassification(dataclasses.replace(made_images(), name="digits"))
    record = train_and_save(small_config(data="fashion-mnist"), digits, RunFolder(tmp_path))
    assert record.config.data == "digits"


def test_progress_shows_the_run_and_its_test_accuracy(tmp_path):
    console = Console(file=io.StringIO(), width=140, force_terminal=True)
    compare(small_comparison(), made_data(), tmp_path, console)
    text = console.file.getvalue()
    assert "all runs" in text
    assert "test accuracy" in text
    assert "soft:0.5, seed 0" in text
