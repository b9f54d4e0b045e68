import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from alignonce import cli

TRAIN = {"data": "digits", "model": "mlp", "depth": 2, "width": 16, "epochs": 1, "device": "cpu"}
STUDY = {
    "name": "made",
    "title": "A made study",
    "seeds": [0, 1],
    "parts": [
        {
            "name": "main",
            "title": "Small",
            "rules": ["bp", "fa", "soft:0.5"],
            "train": TRAIN,
            "measure": {"measures": ["generalisation"], "images": 20},
        }
    ],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    (folder / "made.yaml").write_text(yaml.safe_dump(STUDY))
    code = cli.main(
        ["study", "run", str(folder / "made.yaml"), "--out", str(folder / "out"), "--workers", "1"]
    )
    assert code == 0
    return folder


def test_report_holds_the_numbers_of_the_runs(finished, capsys):
    assert cli.main(["report", str(finished / "out")]) == 0
    assert "report.html" in capsys.readouterr().out
    report = finished / "out" / "report"
    assert "A made study" in (report / "report.html").read_text()
    lines = (report / "numbers.csv").read_text().splitlines()
    assert sum("generalisation,calibration_error" in line for line in lines) == 6
    assert sum(",run,test_accuracy,,," in line for line in lines) == 6
    assert "accuracy-near-bp" in (report / "verdicts.csv").read_text()


def test_reproduce_goes_on_from_what_is_done(finished, capsys):
    args = ["reproduce", "--study", str(finished / "made.yaml"), "--out", str(finished / "out")]
    assert cli.main(args) == 0
    out = capsys.readouterr().out
    assert "6 of 6 runs were finished before" in out
    assert "Report: " in out


def test_status_counts_runs(finished, capsys):
    assert cli.main(["study", "status", str(finished / "out")]) == 0
    assert "6 done, of 6 runs" in capsys.readouterr().out


def test_dry_run_counts_and_trains_nothing(finished, tmp_path, capsys):
    args = ["study", "run", str(finished / "made.yaml"), "--out", str(tmp_path / "new"), "--dry-run"]
    assert cli.main(args) == 0
    assert "6 runs, 6 of them still to be done" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()


def test_reproduce_dry_run_of_the_shipped_study_needs_no_data(tmp_path, capsys):
    """Known data sets need not be there to be counted; one network of each kind is timed."""
    study = STUDY | {"parts": [STUDY["parts"][0] | {"train": TRAIN | {"data": "cifar10", "limit": 100}}]}
    (tmp_path / "known.yaml").write_text(yaml.safe_dump(study))
    args = [
        "reproduce",
        "--study",
        str(tmp_path / "known.yaml"),
        "--dry-run",
        "--cache",
        str(tmp_path / "none"),
    ]
    assert cli.main(args) == 0
    out = capsys.readouterr().out
    assert "cifar10" in out
    assert "Not estimated" not in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["report", "nowhere"], "holds no study"),
        (["study", "status", "nowhere"], "holds no study"),
        (
            ["study", "run", "nowhere.yaml"],
            "neither a file nor a shipped study (language, language-recipe, paper, quick)",
        ),
        (["reproduce", "--study", "nowhere"], "neither a file nor a shipped study"),
    ],
)
def test_what_is_not_there_is_a_users_error(args, message, capsys):
    assert cli.main(args) == 2
    assert message in capsys.readouterr().err


def test_a_study_without_a_finished_run_has_no_report(finished, tmp_path, capsys):
    (tmp_path / "study.json").write_text((finished / "out" / "study.json").read_text())
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "holds no finished run" in capsys.readouterr().err


def test_study_of_varied_settings_only_is_counted_and_no_empty_table_is_printed(tmp_path, capsys):
    train = {name: value for name, value in TRAIN.items() if name != "depth"} | {"limit": 100}
    part = {
        "name": "depth",
        "title": "Depth",
        "rules": ["bp", "fa"],
        "train": train,
        "vary": {"depth": [1, 2]},
    }
    study = {"name": "varied", "title": "Varied", "seeds": [0, 1], "parts": [part]}
    (tmp_path / "varied.yaml").write_text(yaml.safe_dump(study))
    args = ["study", "run", str(tmp_path / "varied.yaml"), "--out", str(tmp_path / "out"), "--together"]
    assert cli.main([*args, "--workers", "1"]) == 0
    capsys.readouterr()
    assert cli.main(["report", str(tmp_path / "out")]) == 0
    *bars, judged, place = capsys.readouterr().out.splitlines()
    assert [bar.split("━")[0].strip() for bar in bars] == ["judging claims", "drawing the report"]
    verdicts = (tmp_path / "out" / "report" / "verdicts.csv").read_text().splitlines()[1:]
    assert sum(int(count) for count in re.findall(r"\d+", judged)) == len(verdicts) > 0
    assert place.startswith("Report: ")


def test_study_of_one_rule_has_no_verdicts_and_says_so(tmp_path, capsys):
    part = {"name": "one", "title": "One", "rules": ["bp"], "train": TRAIN | {"limit": 100}}
    study = {"name": "one", "title": "One", "seeds": [0], "parts": [part]}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(study))
    args = ["study", "run", str(tmp_path / "one.yaml"), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert cli.main(args) == 0
    assert cli.main(["report", str(tmp_path / "out")]) == 0
    assert "No claim could be judged" in capsys.readouterr().out


def test_results_are_published_between_the_comments(finished, tmp_path):
    assert cli.main(["report", str(finished / "out")]) == 0
    docs = Path(__file__).parents[3] / "docs"
    script = (
        f"import sys; sys.path.insert(0, {str(docs)!r})\n"
        "from pathlib import Path\nfrom publish import publish\n"
        f"publish(Path({str(finished / 'out')!r}), Path('README.md'), Path('.'))"
    )
    begin, end = (f"<!-- made by docs/publish.py: {word} -->" for word in ("begin", "end"))
    (tmp_path / "README.md").write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| soft:0.5 |" in text
    assert "\nold\n" not in text
    results = (tmp_path / "results.md").read_text()
    assert "# A made study" in results
    assert (tmp_path / "images/results/verdicts.png").exists()


def test_scores_are_published_in_the_place_of_the_study(finished, tmp_path):
    begin, end = (f"<!-- made by docs/publish.py from made: {word} -->" for word in ("begin", "end"))
    (tmp_path / "page.md").write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    script = Path(__file__).parents[3] / "docs" / "publish.py"
    command = [sys.executable, str(script), "--page", "page.md", str(finished / "out")]
    subprocess.run(command, cwd=tmp_path, check=True)
    text = (tmp_path / "page.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "\nold\n" not in text
    assert "| Small | `bp` |" in text
    assert "Versions: alignonce" in text
