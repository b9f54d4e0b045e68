"""Checkpoints of a run: when they are taken, and the files that they are kept in."""

from __future__ import annotations

import re
from pathlib import Path

_FOLDER = "checkpoints"
_NAME = re.compile(r"step-(\d+)\.safetensors")


def checkpoint_steps(count: int, total_steps: int) -> list[int]:
    """Spread checkpoints evenly over a run.

    Args:
        count: how many; 1 is the end alone, more include the start.
        total_steps: steps of the run.

    Returns:
        Numbers of updates made, ascending and different: fewer than `count` in a run of fewer steps.
    """
    if count < 2:
        return [total_steps] * count
    return sorted({round(i * total_steps / (count - 1)) for i in range(count)})


def checkpoint_file(run: Path, step: int) -> Path:
    """Name the file of a checkpoint.

    Args:
        run: the folder of the run.
        step: updates made.

    Returns:
        The file, whether or not there is one.
    """
    return run / _FOLDER / f"step-{step:06}.safetensors"


def saved_steps(run: Path) -> list[int]:
    """List the checkpoints that a run has on disk.

    Args:
        run: the folder of the run.

    Returns:
        Their steps, ascending.
    """
    names = (_NAME.fullmatch(file.name) for file in (run / _FOLDER).glob("step-*.safetensors"))
    return sorted(int(name[1]) for name in names if name)


def remove_checkpoints(run: Path) -> None:
    """Remove the checkpoints of an unfinished run, so that they do not mix with those of the next.

    Args:
        run: the folder of the run.
    """
    for step in saved_steps(run):
        checkpoint_file(run, step).unlink()
