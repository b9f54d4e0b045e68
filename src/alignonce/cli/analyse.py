"""`alignonce analyse`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro

from alignonce.cli.common import FROM_ANYWHERE, INCOMPLETE, INTERRUPTED, OK, Source, load_data_of
from alignonce.experiments.measures.plan import AnalysisPlan


def analyse(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    plan: Annotated[AnalysisPlan, tyro.conf.arg(name="")],
    out: Path = Path("runs/analysis"),
    source: Source = FROM_ANYWHERE,
) -> int:
    """Measure saved runs: how they learnt, and how robust the trained networks are.

    Writes one table, analysis.csv, and figures: of the final networks and, with --checkpoints, of the
    checkpoints too. What was already measured with the same settings is not measured again: to resume an
    interrupted analysis, give the same command again. Exit code 0: everything was measured; 1: some
    measurements failed, and are listed.

    For example:
      alignonce analyse runs/compare
      alignonce analyse runs/compare --measures curvature landscape --images 1000
      alignonce analyse runs/compare --checkpoints     # runs trained with --checkpoints N
      alignonce analyse runs/bp-seed0 runs/fa-seed0 --out runs/bp-and-fa

    Args:
        runs: Folders of runs, or folders of such folders.
        plan: what to measure.
        out: Folder for the results.
        source: where data come from.

    Returns:
        The exit code.
    """
    from rich.console import Console

    from alignonce.experiments.measures.run import analyse as run_analysis
    from alignonce.experiments.measures.run import failure_lines
    from alignonce.experiments.measures.summary import masking_lines, summary_table

    if not runs:
        raise ValueError("runs: give at least one folder of a run, or of runs")
    console = Console()
    result = run_analysis(runs, plan, out, lambda run: load_data_of(run.config, source), console)
    console.print(summary_table(result.table))
    for line in masking_lines(result.table):
        print(f"Masking, {line}")
    if result.skipped:
        print(f"{result.skipped} of {result.parts} measures of a run were taken before and not again.")
    print(f"Results: {out}/ ({', '.join(file.name for file in result.files)})")
    for line in failure_lines(result.failures):
        print(f"Failed: {line}", file=sys.stderr)
    if result.interrupted:
        print("Interrupted: what was measured so far is saved. The same command goes on from here.")
        return INTERRUPTED
    return INCOMPLETE if result.failures else OK
