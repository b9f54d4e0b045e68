"""Doing the jobs of a study on a Ray cluster. Nodes need not share a file system."""

from __future__ import annotations

import logging
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignonce.experiments.files import write_atomically
from alignonce.experiments.studies.pool import Job, OnEnd, OnStart, attempt

Files = dict[str, bytes]
"""Names relative to the folder of the study, and contents."""

# Of a job whose node or process died; a job that fails by itself is not tried again.
RETRIES = 3


@dataclass(frozen=True)
class Cluster:
    """An executor: spreads jobs over a Ray cluster.

    Each job runs in an empty folder on some node. What it needs is sent there, and what it made is sent back
    and written into the folder of the study by this process alone; so a job that a dying node has cut off
    leaves nothing behind, and one that is tried again is written once.

    Args:
        root: the folder of the study.
        address: of the cluster, such as `auto` or `ray://host:10001`; None starts Ray on this machine.
        cpus: that each job asks for, and the threads that it uses.
        gpus: that each job asks for; a fraction shares a GPU.
    """

    root: Path
    address: str | None = None
    cpus: int = 1
    gpus: float = 0.0

    def __call__(self, jobs: Sequence[Job], on_start: OnStart, on_end: OnEnd) -> None:
        """Do all jobs.

        Args:
            jobs: what to do.
            on_start: called when a job is handed to the cluster.
            on_end: called when a job has ended, with the reason if it failed.

        Raises:
            ValueError: Ray is not installed, or the cluster cannot be reached.
        """
        if not jobs:
            return
        ray = _connect(self.address)
        remote = ray.remote(_do_elsewhere).options(
            num_cpus=self.cpus, num_gpus=self.gpus, max_retries=RETRIES
        )
        running: dict[Any, Job] = {}
        try:
            for job in jobs:
                inputs = _read(self.root, job.inputs)
                running[remote.remote(job, self.root, inputs, self.cpus)] = job
                on_start(job)
            while running:
                (done,), _ = ray.wait(list(running), num_returns=1)
                job = running.pop(done)
                try:
                    reason, made = ray.get(done)
                except ray.exceptions.RayError as error:
                    reason, made = f"lost {RETRIES + 1} times: {type(error).__name__}", {}
                _write(self.root, made)
                on_end(job, reason)
        finally:
            for task in running:
                ray.cancel(task, force=True)


def _connect(address: str | None) -> Any:
    try:
        import ray
    except ImportError as error:
        raise ValueError(f"executor ray: {error}; pip install 'alignonce[ray]'") from error
    if not ray.is_initialized():
        try:
            _knock(address)
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"address: no Ray cluster at {address}: {error}") from error
    return ray


def _knock(address: str | None) -> None:
    """Find out at once whether somebody answers: Ray itself tries for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=10).close()


def _do_elsewhere(job: Job, root: Path, inputs: Files, threads: int) -> tuple[str | None, Files]:
    import torch

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        _write(here, inputs)
        moved = job.moved(root, here)
        reason = attempt(moved)
        return reason, _read(here, (moved.output,))


def _read(root: Path, folders: Sequence[Path]) -> Files:
    files = (file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file.relative_to(root)): file.read_bytes() for file in files}


def _write(root: Path, files: Files) -> None:
    # The summary says that all the rest of a run is there.
    for name in sorted(files, key=lambda name: name.endswith("summary.json")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(root / name, files[name])
