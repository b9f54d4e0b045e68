"""Doing many jobs on one machine, several at a time, each in a process of its own making."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol

import torch


class Job(Protocol):
    """Something to do that leaves its results on disk; must survive the way to another process."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def covers(self) -> tuple[str, ...]:
        """Names of all that fails if it fails."""

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Folders that it reads, besides the data set."""

    @property
    def output(self) -> Path:
        """The folder that it writes."""

    def moved(self, old: Path, new: Path) -> Job:
        """Make the same job in another place.

        Args:
            old: the folder of the study.
            new: what takes its place.

        Returns:
            The job.
        """

    def __call__(self) -> None:
        """Do it.

        Raises:
            Exception: it failed; the other jobs are not concerned.
        """


OnStart = Callable[[Job], None]
OnEnd = Callable[[Job, str | None], None]


def default_workers() -> int:
    """Say how many processes suit this machine.

    Returns:
        One for each core: small networks make better use of two cores apart than together. One if there is a
        GPU.
    """
    return 1 if torch.cuda.is_available() else os.cpu_count() or 1


def run_in_processes(
    jobs: Sequence[Job], workers: int, on_start: OnStart, on_end: OnEnd, threads: int | None = None
) -> None:
    """Do all jobs, whatever happens to some of them.

    Workers end with this process, even if it is killed, so that a study that is started again has no ghosts
    beside it.

    Args:
        jobs: what to do, in this order as far as several workers keep one.
        workers: processes.
        on_start: called when a job begins.
        on_end: called when a job has ended, with the reason if it failed.
        threads: of torch in each worker; None shares out those that torch would take here.
    """
    threads = threads or max(1, torch.get_num_threads() // workers)
    waiting = list(jobs)
    while waiting:
        waiting, suspects = _run_until_a_worker_dies(waiting, workers, threads, on_start, on_end)
        for job in suspects:
            # Alone with it, there is no doubt who killed the worker; and it has all memory to itself.
            _, guilty = _run_until_a_worker_dies([job], 1, threads, on_start, on_end)
            for _ in guilty:
                on_end(job, "its process was killed, perhaps for lack of memory")


def _run_until_a_worker_dies(
    jobs: Sequence[Job], workers: int, threads: int, on_start: OnStart, on_end: OnEnd
) -> tuple[list[Job], list[Job]]:
    """Return the jobs that have not begun, and those that were in progress when a worker died."""
    waiting, running = list(jobs), dict[Future[str | None], Job]()
    pool = ProcessPoolExecutor(
        min(workers, len(waiting)),
        multiprocessing.get_context("spawn"),
        initializer=_prepare_worker,
        initargs=(threads,),
    )
    try:
        while waiting or running:
            # No more than can run at once: so it is known which jobs were in progress when a worker died.
            while waiting and len(running) < workers:
                running[pool.submit(attempt, waiting[0])] = waiting[0]
                on_start(waiting.pop(0))
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                reason = future.result()
                on_end(running.pop(future), reason)
    except BrokenProcessPool:
        for future in list(running):
            if future.done() and future.exception() is None:
                on_end(running.pop(future), future.result())
    except BaseException:
        _kill(pool)
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return waiting, list(running.values())


def attempt(job: Job) -> str | None:
    """Do a job.

    Args:
        job: what to do.

    Returns:
        Why it failed, in one line; None if it did not.
    """
    try:
        job()
    except Exception as error:
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _prepare_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    # Ctrl-C reaches the whole group; only the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent: Any = multiprocessing.parent_process()
    parent.join()
    os._exit(1)


def _kill(pool: ProcessPoolExecutor) -> None:
    for process in list((pool._processes or {}).values()):
        process.kill()
