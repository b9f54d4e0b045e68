import os
import shutil
import signal
import threading
import time

import pytest
import torch

from alignonce import cli


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "runs"
    small = ["--data", "digits", "--limit", "200", "--depth", "2", "--width", "16", "--epochs", "1"]
    assert cli.main(["train", *small, "--rule", "fa", "--device", "cpu", "--out", str(folder / "fa")]) == 0
    return folder


@pytest.fixture
def run_folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "runs")


def run(*args) -> int:
    try:
        return cli.main([str(arg) for arg in args])
    except SystemExit as exit_:
        return exit_.code


def test_analyse_prints_headlines_and_resumes(run_folder, tmp_path, capsys):
    args = [
        "analyse", run_folder, "--measures", "generalisation", "alignment", "--images", "30",
        "--out", tmp_path / "out",
    ]  # fmt: skip
    assert run(*args) == 0
    text = capsys.readouterr().out
    assert "ECE" in text
    assert "generalisation.png" in text
    assert (tmp_path / "out" / "analysis.csv").exists()
    assert run(*args) == 0
    assert "2 of 2 measures of a run were taken before" in capsys.readouterr().out


def test_failed_measures_exit_with_1_and_are_named(run_folder, tmp_path, capsys):
    (run_folder / "fa" / "model.safetensors").unlink()
    assert run("analyse", run_folder / "fa", "--measures", "flow", "--out", tmp_path / "out") == 1
    assert "Failed: fa, flow: " in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_exits_with_130_and_keeps_what_was_measured(run_folder, tmp_path, capsys):
    out = tmp_path / "out"

    def press_ctrl_c():
        limit = time.monotonic() + 60
        while not list(out.rglob("*alignment*")) and time.monotonic() < limit:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    pressing = threading.Thread(target=press_ctrl_c)
    pressing.start()
    # The second takes minutes.
    long = ["--measures", "alignment", "adversarial", "--steps", "100000"]
    code = run("analyse", run_folder, *long, "--out", out)
    pressing.join()
    assert code == 130
    assert "The same command goes on from here" in capsys.readouterr().out


def test_user_errors_are_one_line(run_folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    cases = [
        ([tmp_path / "none"], "holds no run"),
        ([run_folder, "--out", tmp_path / "file" / "out"], "cannot write into"),
        ([run_folder, "--eps", "0"], "eps must be above 0"),
        ([], "give at least one"),
    ]
    if not torch.cuda.is_available():
        cases.append(([run_folder, "--device", "cuda", "--out", tmp_path / "out"], "no CUDA"))
    for args, message in cases:
        assert run("analyse", *args) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_unknown_measures_are_refused_with_the_known_ones(run_folder, capsys):
    assert run("analyse", run_folder, "--measures", "magic") == 2
    error = capsys.readouterr().err
    assert "magic" in error
    assert "curvature" in error


def test_help_of_analyse_teaches(capsys):
    assert run("analyse", "--help") == 0
    text = capsys.readouterr().out
    assert "alignonce analyse runs/compare" in text
    assert "--images" in text
