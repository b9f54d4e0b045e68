"""Live progress bars, all of one look: of jobs, of runs, of the measures of an analysis, of a report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.training.loop import Progress as RunProgress


class Bars:
    """Progress bars, shown inside a `with` block.

    Args:
        console: where to show them; None shows nothing.
    """

    def __init__(self, console: Console | None) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console or Console(quiet=True),
            # An estimate from one job, or from long ago, misleads.
            speed_estimate_period=600,
            disable=console is None,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def add(self, title: str) -> Callable[[int, int], None]:
        """Add a bar.

        Args:
            title: what is being done.

        Returns:
            What is to be called with the steps done and the steps in all.
        """
        task = self._add(title)
        return lambda done, total: self._bars.update(task, completed=done, total=total)

    def _add(self, title: str, total: int | None = None, visible: bool = True) -> TaskID:
        return self._bars.add_task(title, total=total, note="", visible=visible)


class JobBars(Bars):
    """One bar over all jobs.

    Args:
        console: where to show it; None shows nothing.
        title: what is being done.
        jobs: how many.
    """

    def __init__(self, console: Console | None, title: str, jobs: int) -> None:
        super().__init__(console)
        self._running: list[str] = []
        self._task = self._add(title, jobs, visible=jobs > 0)

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


class RunBars(Bars):
    """A bar over all runs, if there are several, and one over the steps of the present run.

    Args:
        console: where to show them; None shows nothing.
        runs: how many.
    """

    def __init__(self, console: Console | None, runs: int) -> None:
        super().__init__(console)
        self._all = self._add("all runs", runs, visible=runs > 1)
        self._run = self._add("", visible=False)

    def follow(self, run: RunConfig) -> Callable[[RunProgress], None]:
        """Turn the second bar to a new run.

        Args:
            run: the run.

        Returns:
            What the run is to call with its progress.
        """
        name = f"{run.rule}, seed {run.seed}"
        self._bars.reset(self._run, description=name, note="", visible=True)

        def update(progress: RunProgress) -> None:
            accuracy = progress.test_accuracy
            note = "" if accuracy is None else f"test accuracy {100 * accuracy:.1f}%"
            self._bars.update(self._run, total=progress.total_steps, completed=progress.step, note=note)

        return update

    def finish_run(self) -> None:
        """Count one run more as finished."""
        self._bars.advance(self._all)


class AnalysisBars(Bars):
    """A bar over all parts of an analysis, and one over the steps of the present part.

    Args:
        console: where to show them; None shows nothing.
        parts: how many.
    """

    def __init__(self, console: Console | None, parts: int) -> None:
        super().__init__(console)
        self._all = self._add("all measures", parts)
        self._part = self._add("", visible=False)

    def begin(self, name: str, steps: int) -> None:
        """Turn the second bar to a new part.

        Args:
            name: the run and the group.
            steps: how many steps it has.
        """
        self._bars.reset(self._part, description=name, total=steps, note="", visible=True)

    def show_step(self, title: str) -> None:
        """Name the present step.

        Args:
            title: its title.
        """
        self._bars.update(self._part, note=title)

    def finish_step(self) -> None:
        """Count one step more as finished."""
        self._bars.advance(self._part)

    def finish_part(self) -> None:
        """Count one part more as finished."""
        self._bars.advance(self._all)
