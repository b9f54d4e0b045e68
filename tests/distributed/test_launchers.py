"""`torchrun` and Slurm's `srun` start the processes of a run; one that is killed, or stopped, goes on.

There is no Slurm here: two processes are started by hand with the variables that `srun` sets.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from alignonce.cli.main import main
from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.runs.folder import RunFolder
from alignonce.experiments.training.engine import as_launched
from helpers.small_runs import without_time

pytestmark = pytest.mark.distributed

TRAIN = (
    "-m", "alignonce", "train", "--device", "cpu", "--data", "digits", "--limit", "512", "--batch-size", "16",
    "--depth", "2", "--width", "32", "--epochs", "10", "--rule", "kp", "--learning-rate", "1e-3",
)  # fmt: skip
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def start(*args: object, **variables: object) -> "subprocess.Popen[str]":
    env = os.environ | {"OMP_NUM_THREADS": "1"} | {name: str(value) for name, value in variables.items()}
    return subprocess.Popen(
        [sys.executable, *map(str, args)], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def alone(*args: object) -> int:
    """The same command in this very process."""
    return main([str(arg) for arg in args[2:]])


def ended(process: "subprocess.Popen[str]") -> int:
    out, errors = process.communicate(timeout=120)
    print(out, errors)
    return process.returncode


def wait_for_resume_point(folder: Path) -> None:
    limit = time.monotonic() + 100
    while not list(folder.glob("resume/step-*/SHA256SUMS")):
        assert time.monotonic() < limit
        time.sleep(0.02)
    assert not (folder / "summary.json").exists()


def variables_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_text().split("\0")
    except OSError:
        return []


def worker_of(torchrun: "subprocess.Popen[str]", rank: int) -> int:
    children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
    return next(int(pid) for pid in children if f"LOCAL_RANK={rank}" in variables_of(int(pid)))


def same_to_the_bit(a: Path, b: Path) -> bool:
    ours, theirs = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    return ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)


def losses(folder: Path) -> list[float]:
    return RunFolder(folder).load().metrics.series("step_loss")[1]


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torchrun") / "run"
    assert ended(start(*TORCHRUN, *TRAIN, "--strategy", "ddp", "--out", folder)) == 0
    return folder


def test_torchrun_learns_what_one_process_learns(never_stopped, tmp_path):
    assert alone(*TRAIN, "--out", tmp_path / "one") == 0
    assert losses(never_stopped) == pytest.approx(losses(tmp_path / "one"), rel=1e-3, abs=1e-4)
    config = RunFolder(never_stopped).config()
    assert (config.devices, config.num_nodes, config.strategy) == (2, 1, "ddp")


def test_torchrun_spreads_a_language_model(tmp_path):
    (tmp_path / "text.txt").write_text("All that is gold does not glitter. " * 100)
    lm = (
        "-m", "alignonce", "train", "--device", "cpu", "--task", "lm", "--data", tmp_path / "text.txt",
        "--context", "16", "--limit", "64", "--depth", "1", "--width", "32", "--epochs", "2",
    )  # fmt: skip
    assert alone(*lm, "--out", tmp_path / "one") == 0
    assert ended(start(*TORCHRUN, *lm, "--strategy", "fsdp", "--out", tmp_path / "two")) == 0
    one, two = (without_time(RunFolder(tmp_path / name).load().metrics) for name in ("one", "two"))
    assert [row[:4] for row in one] == [row[:4] for row in two]
    assert [row.value for row in one] == pytest.approx([row.value for row in two], rel=1e-3, abs=1e-4)


def test_torchrun_starts_again_where_a_killed_process_left_off(never_stopped, tmp_path):
    folder = tmp_path / "killed"
    # Else the processes may look for each other where those before them were: PyTorch's issue 135712.
    torchrun = start(
        *TORCHRUN, "--max-restarts", 1, *TRAIN, "--strategy", "ddp", "--out", folder,
        "--save-every-steps", 20, TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1,
    )  # fmt: skip
    wait_for_resume_point(folder)
    os.kill(worker_of(torchrun, 1), signal.SIGKILL)
    assert ended(torchrun) == 0
    assert same_to_the_bit(folder, never_stopped)
    assert without_time(RunFolder(folder).load().metrics) == without_time(
        RunFolder(never_stopped).load().metrics
    )


def start_as_srun(folder: Path) -> "list[subprocess.Popen[str]]":
    # Fabric takes the port from the job's number.
    for job in range(os.getpid() % 10_000, 10_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", job + 15_000)) != 0:
                break
    return [
        start(
            *TRAIN, "--out", folder, "--save-every-steps", 20,
            SLURM_JOB_ID=job, SLURM_JOB_NAME="train", SLURM_STEP_ID=0, SLURM_STEP_NUM_TASKS=2,
            SLURM_NTASKS=2, SLURM_NTASKS_PER_NODE=2, SLURM_NNODES=1, SLURM_NODELIST="localhost",
            SLURM_JOB_NODELIST="localhost", SLURM_NODEID=0, SLURM_PROCID=rank, SLURM_LOCALID=rank,
        )
        for rank in (0, 1)
    ]  # fmt: skip


def test_slurm_job_that_is_told_of_its_end_goes_on_in_the_next(never_stopped, tmp_path):
    folder = tmp_path / "job"
    tasks = start_as_srun(folder)
    wait_for_resume_point(folder)
    for task in tasks:  # Slurm tells all of them
        task.send_signal(signal.SIGUSR1)
    assert [ended(task) for task in tasks] == [130, 130]
    assert RunFolder(folder).status() == "interrupted"
    assert [ended(task) for task in start_as_srun(folder)] == [0, 0]
    assert same_to_the_bit(folder, never_stopped)


def slurm(**changes: str) -> dict[str, str]:
    return {
        "SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2", "SLURM_STEP_NUM_TASKS": "8"
    } | changes  # fmt: skip


def test_slurm_tells_devices_and_machines(monkeypatch):
    for name, value in slurm().items():
        monkeypatch.setenv(name, value)
    config = as_launched(RunConfig())
    assert (config.devices, config.num_nodes) == (4, 2)
    assert as_launched(config) == config
    with pytest.raises(ValueError, match="srun has started 4 processes on each of 2 nodes, but devices 3"):
        as_launched(RunConfig(devices=3))
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(ValueError, match="--ntasks-per-node in place of --ntasks"):
        as_launched(RunConfig())


def test_without_a_launcher_processes_are_as_configured(monkeypatch):
    assert as_launched(RunConfig(devices=2)) == RunConfig(devices=2)
    # Within a job, but not started by srun: alone.
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert as_launched(RunConfig()) == RunConfig()
