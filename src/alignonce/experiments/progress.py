"""Live progress bars: one for all runs, one for the present run with its newest test accuracy."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.training.loop import Progress as RunProgress


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
