"""The command line on tasks other than images."""

import csv
import json

import pytest

from alignonce import cli

SMALL = ["--context", "16", "--width", "32", "--depth", "1", "--limit", "20", "--device", "cpu"]


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("".join(f"line {i} of a text\n" for i in range(400)), encoding="utf-8")
    return ["--task", "lm", "--data", str(file), *SMALL]


def run(*args: str) -> int:
    try:
        return cli.main(args)
    except SystemExit as exit_:
        return exit_.code


def test_help_shows_the_defaults_of_the_task(capsys):
    assert run("train", "--task", "lm", "--help") == 0
    assert "python-stdlib)" in " ".join(capsys.readouterr().out.replace("│", "").split())


def test_options_left_out_follow_those_given(tmp_path, text):
    # 64 wide: two heads of 32, not the four of the default width
    out = tmp_path / "run"
    assert run("train", *text, "--width", "64", "--out", str(out)) == 0
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert (config["width"], config["heads"], config["learning_rate"]) == (64, 2, 2e-3)


def test_language_models_are_compared_in_bits_per_byte(tmp_path, text, capsys):
    out = tmp_path / "compare"
    assert run("compare", *text, "--rules", "bp", "fa", "--out", str(out)) == 0
    printed = capsys.readouterr().out
    assert "bits/byte" in printed
    assert "20 training and 20 test windows of 16 tokens" in " ".join(printed.split())
    with (out / "compare.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["rule"] for row in rows] == ["bp", "fa"]
    assert all(0 < float(row["test_bits_per_byte"]) < 9 for row in rows)


def test_trained_language_model_writes(tmp_path, text, capsysbinary):
    out = tmp_path / "run"
    assert run("train", *text, "--rule", "soft:1", "--out", str(out)) == 0
    capsysbinary.readouterr()
    assert run("sample", str(out), "--prompt", "line ", "--length", "7") == 0
    written = capsysbinary.readouterr().out
    assert written.startswith(b"line ")
    assert len(written) == 5 + 7 + 1


def test_sampling_from_a_network_for_images_is_refused(tmp_path, capsys):
    small = ["--data", "digits", "--depth", "1", "--width", "8", "--epochs", "1", "--device", "cpu"]
    assert run("train", *small, "--limit", "20", "--out", str(tmp_path / "run")) == 0
    assert run("sample", str(tmp_path / "run")) == 2
    assert "holds no language model" in capsys.readouterr().err


@pytest.mark.parametrize("rule", ["bp", "fa"])
def test_language_model_is_audited(text, rule, capsys):
    arguments = [arg for arg in text if arg not in ("--limit", "20", "--device", "cpu")]
    code = run("audit", *arguments, "--rule", rule, "--norms", "fixed", "--batch-size", "2")
    assert code == (rule == "bp"), capsys.readouterr().out


def test_analysis_of_a_language_model_is_refused_clearly(tmp_path, text, capsys):
    out = tmp_path / "run"
    assert run("train", *text, "--out", str(out)) == 0
    assert run("analyse", str(out), "--out", str(tmp_path / "a")) == 2
    assert "task lm" in capsys.readouterr().err


def test_table_is_compared_by_explained_variance(tmp_path, capsys):
    args = ["--task", "tabular", "--epochs", "2", "--device", "cpu", "--rules", "bp", "soft:0.5"]
    assert run("compare", *args, "--out", str(tmp_path)) == 0
    assert "R²" in capsys.readouterr().out


def test_study_runs_language_models(tmp_path, text, capsys):
    settings = {"task": "lm", "data": text[3], "context": 16, "width": 32, "depth": 1, "limit": 20}
    part = {
        "name": "rules",
        "title": "made",
        "rules": ["bp", "soft:1"],
        "train": settings | {"device": "cpu"},
    }
    study = tmp_path / "study.yaml"
    # JSON is YAML
    study.write_text(
        json.dumps({"name": "made", "title": "made", "seeds": [0], "parts": [part]}), encoding="utf-8"
    )
    assert run("study", "run", str(study), "--dry-run", "--out", str(tmp_path / "out")) == 0
    assert "Not estimated" not in capsys.readouterr().out
    assert run("study", "run", str(study), "--workers", "1", "--out", str(tmp_path / "out")) == 0
    assert "rules" in capsys.readouterr().out
    summaries = list((tmp_path / "out").rglob("summary.json"))
    assert len(summaries) == 2
    assert all(json.loads(s.read_text(encoding="utf-8"))["test_bits_per_byte"] for s in summaries)
