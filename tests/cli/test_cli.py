import json
import subprocess
import sys

import pytest
import torch

import alignonce
from alignonce import cli

SMALL = ["--data", "digits", "--depth", "2", "--width", "16", "--epochs", "1", "--device", "cpu"]
BATCH = ["--batch-size", "8"]


@pytest.fixture(autouse=True)
def one_thread():
    """On tensors this small, threads cost more than they give, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(*args: str) -> int:
    """Call the command line as the installed script does: what `main` raises or returns is the exit code."""
    try:
        return cli.main(args)
    except SystemExit as exit_:
        return exit_.code


def test_version_is_printed(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"alignonce {alignonce.__version__}\n"


@pytest.mark.parametrize("command", [[], ["compare"], ["train"], ["audit"]])
def test_help_teaches_with_examples(command, capsys):
    assert run(*command, "--help") == 0
    text = capsys.readouterr().out
    assert f"alignonce {' '.join(command)}".strip() in text
    assert "xample" in text
    if command:
        assert "--learning-rate" in text or command == ["audit"]
        assert "soft:COSINE" in text


@pytest.mark.slow
def test_help_does_not_load_matplotlib():
    script = (
        "import sys\nfrom alignonce.cli.main import main\n"
        "try: main(['compare', '--help'])\nexcept SystemExit: pass\n"
        "sys.exit('matplotlib' in sys.modules or 'safetensors' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


def test_compare_prints_data_table_and_place(tmp_path, capsys):
    out = tmp_path / "results"
    args = ["compare", *SMALL, "--rules", "bp", "fa", "--seeds", "0", "1", "--out", str(out)]
    assert run(*args) == 0
    text = capsys.readouterr().out
    assert "Data: digits" in text
    assert "source: scikit-learn's 8x8 digits" in text
    assert "random feedback" in text
    assert str(out) in text
    assert (out / "compare.png").stat().st_size > 0
    assert run(*args) == 0
    assert "4 of 4 runs were finished before" in capsys.readouterr().out


def test_train_saves_a_run_and_does_not_overwrite_it(tmp_path, capsys):
    out = tmp_path / "run"
    args = ["train", *SMALL, "--rule", "soft:0.50", "--seed", "3", "--limit", "200", "--out", str(out)]
    assert run(*args) == 0
    assert "soft alignment 0.5" in capsys.readouterr().out
    config = json.loads((out / "config.json").read_text())
    assert (config["rule"], config["seed"], config["limit"]) == ("soft:0.5", 3, 200)
    assert json.loads((out / "summary.json").read_text())["data"]["train_examples"] == 200
    assert run(*args) == 2
    error = capsys.readouterr().err
    assert "already holds a finished run" in error
    assert error.count("\n") == 1


def test_train_without_a_folder_takes_the_next_free_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run("train", *SMALL, "--rule", "fa") == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "digits-mlp-fa-seed0",
        "digits-mlp-fa-seed0-2",
    ]


@pytest.mark.parametrize(("rule", "code"), [("bp", 1), ("fa", 0), ("soft:0.5", 0)])
def test_audit_tells_by_exit_code_whether_weights_are_transported(rule, code, capsys):
    assert run("audit", "--data", "digits", "--rule", rule, "--depth", "2", *BATCH) == code
    assert "Data: digits" in capsys.readouterr().out


def test_audit_of_the_resnet_explains_what_batchnorm_reads(capsys):
    assert run("audit", "--data", "digits", "--model", "resnet", "--rule", "fa", "--width", "2", *BATCH) == 1
    assert "--norms fixed" in capsys.readouterr().out


@pytest.mark.parametrize("rule", ["fa", "soft:0.5", "sign", "kp", "mirror", "dfa"])
def test_audit_of_the_resnet_is_free_of_transport_with_fixed_norms(rule, capsys):
    args = ["audit", "--data", "digits", "--model", "resnet", "--width", "2", "--norms", "fixed", *BATCH]
    assert run(*args, "--rule", rule) == 0
    assert "free of weight transport" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", "--rule", "who"], "unknown learning rule 'who'; known are bp"),
        (["train", "--epochs", "0"], "epochs: Input should be greater than or equal to 1, got 0"),
        (["train", "--learning-rate", "-1"], "learning-rate: Input should be greater than 0, got -1.0"),
        (["train", "--data", "no/such/file.npz"], "no/such/file.npz"),
        (["compare", "--rules", "bp", "bp"], "rules must differ"),
        (["audit", "--rule", "soft:7"], "must be in [-1, 1]"),
    ],
)
def test_user_errors_are_one_line_without_traceback(args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*args) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("alignonce: error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "args", [["fly"], ["train", "--no-such-option", "1"], ["train", "--model", "alexnet"]]
)
def test_unknown_commands_and_options_exit_with_2(args, capsys):
    assert run(*args) == 2
    assert args[-1].removeprefix("--") in capsys.readouterr().err or args[-1] == "1"


@pytest.mark.parametrize("command", ["train", "compare"])
def test_unwritable_folder_is_found_before_the_data_are_read(command, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    data = ["--data", str(tmp_path / "no-such-file.npz")]
    assert run(command, *data, "--out", str(tmp_path / "file" / "out")) == 2
    assert "out: cannot write into" in capsys.readouterr().err
    assert run(command, *data, "--out", str(tmp_path / "out")) == 2
    assert "no-such-file.npz" in capsys.readouterr().err


def test_ctrl_c_exits_with_130(capsys):
    def wait() -> int:
        raise KeyboardInterrupt

    assert cli.main(["wait"], commands=[wait]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_unavailable_data_is_a_users_error(tmp_path, capsys):
    assert run("audit", "--data", "svhn", "--no-hub", "--cache", str(tmp_path)) == 2
    error = capsys.readouterr().err
    assert error.startswith("alignonce: error: data: ")
    assert "svhn" in error
    assert error.count("\n") == 1
