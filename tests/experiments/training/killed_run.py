"""A run that is killed again and again: python killed_run.py FOLDER RULE KILLS.

Each attempt is a process of its own that knows nothing but the folder. They are forked from this one, which
has imported everything and trained nothing, so that a restart takes no seconds.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from alignonce.experiments.runs.folder import RunFolder
from alignonce.experiments.runs.train_into import train_and_save
from alignonce.experiments.training.resuming import SaveEvery
from helpers.small_runs import made_data, small_config


def attempt(folder: Path, rule: str) -> int:
    """Start or resume the run in a new process; its id."""
    child = os.fork()
    if child == 0:
        config = small_config(rule=rule, epochs=40, checkpoints=3)
        train_and_save(config, made_data(), RunFolder(folder), every=SaveEvery(None, 2))
        os._exit(0)
    return child


def main(folder: Path, rule: str, kills: int) -> None:
    torch.set_num_threads(1)
    random.seed(rule)
    begun = time.monotonic()
    os.waitpid(attempt(folder / "whole", rule), 0)
    duration = time.monotonic() - begun
    longest = duration / 10
    done = restarts = 0
    while done < kills:
        child = attempt(folder / "killed", rule)
        time.sleep(random.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        done += os.WIFSIGNALED(status)
        restarts += 1
        if RunFolder(folder / "killed").is_finished():
            break
        # Where nothing was saved in two attempts, the moments come too early to be of use.
        points = len(list((folder / "killed").glob("resume/step-*")))
        longest *= 1 if points else 1.5
    _, status = os.waitpid(attempt(folder / "killed", rule), 0) if done >= kills else (0, 0)
    print(f"{done} kills, {restarts} attempts, uninterrupted {duration:.2f} s, exit {status}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
