"""The progress bar of a study: jobs done, and what is in progress."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class JobBars:
    """One bar over all jobs, shown inside a `with` block.

    Args:
        console: where to show it; None shows nothing.
        title: what is being done.
        jobs: how many.
    """

    def __init__(self, console: Console | None, title: str, jobs: int) -> None:
        self._running: list[str] = []
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console or Console(quiet=True),
            # An estimate from one job, or from long ago, misleads.
            speed_estimate_period=600,
            disable=console is None,
        )
        self._task = self._bars.add_task(title, total=jobs, note="", visible=jobs > 0)

    def __enter__(self) -> JobBars:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def start(self, name: str) -> None:
        """Show a job as being in progress.

        Args:
            name: of the job.
        """
        self._running.append(name)
        self._show()

    def end(self, name: str) -> None:
        """Count a job as done.

        Args:
            name: of the job.
        """
        if name in self._running:
            self._running.remove(name)
        self._bars.advance(self._task)
        self._show()

    def _show(self) -> None:
        self._bars.update(self._task, note=", ".join(self._running))
