"""Live progress bars: of the jobs of a study, of runs, of the measures of an analysis."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.training.loop import Progress as RunProgress


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


class RunBars:
    """Progress bars, shown inside a `with` block."""

    def __init__(self, console: Console | None, runs: int) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console or Console(quiet=True),
            disable=console is None,
        )
        self._all = self._bars.add_task("all runs", total=runs, note="", visible=runs > 1)
        self._run = self._bars.add_task("", total=None, note="", visible=False)

    def __enter__(self) -> RunBars:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

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


class AnalysisBars:
    """Progress bars, shown inside a `with` block."""

    def __init__(self, console: Console | None, parts: int) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console or Console(quiet=True),
            disable=console is None,
        )
        self._all = self._bars.add_task("all measures", total=parts, note="")
        self._part = self._bars.add_task("", total=None, note="", visible=False)

    def __enter__(self) -> AnalysisBars:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

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
