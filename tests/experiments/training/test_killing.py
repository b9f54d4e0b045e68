"""SIGKILL at random moments, and the run still ends as if nothing had been."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alignonce.experiments.runs.folder import RunFolder
from helpers.small_runs import without_time

pytestmark = pytest.mark.faults

HERE = Path(__file__).parent
# Thirty take two minutes: ALIGNONCE_KILLS=30 pytest tests/experiments/training/test_killing.py
KILLS = int(os.environ.get("ALIGNONCE_KILLS", "8"))


@pytest.mark.parametrize("rule", ["soft:0.5", "kp"])
def test_run_killed_at_random_moments_ends_bit_for_bit_as_one_left_alone(tmp_path, rule):
    path = os.pathsep.join([str(HERE), *sys.path])
    done = subprocess.run(
        [sys.executable, str(HERE / "killed_run.py"), str(tmp_path), rule, str(KILLS)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    assert done.stdout.startswith(f"{KILLS} kills")
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    assert killed.status() == "done"
    states = whole.load_model().state_dict(), killed.load_model().state_dict()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert without_time(whole.load().metrics) == without_time(killed.load().metrics)
    assert killed.checkpoint_steps() == whole.checkpoint_steps()
    assert not (tmp_path / "killed" / "resume").exists()
