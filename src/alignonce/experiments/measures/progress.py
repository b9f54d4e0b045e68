"""Live progress bars of an analysis: one for all measures of all runs, one for the present one."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


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
