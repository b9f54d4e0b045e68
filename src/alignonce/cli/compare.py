"""`alignonce compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from alignonce.cli.common import FROM_ANYWHERE, INTERRUPTED, OK, Source, data_line, load_data_of
from alignonce.experiments.config.run import CompareConfig


def compare(
    config: Annotated[CompareConfig, tyro.conf.arg(name="")],
    out: Path = Path("runs/compare"),
    source: Source = FROM_ANYWHERE,
) -> int:
    """Train one network under several learning rules, and compare them in a table and a figure.

    Within a seed, all rules start from the same forward weights and see the same batches. Runs that are
    already finished in the output folder are not repeated: to resume an interrupted comparison, give the
    same command again.

    For example:
      alignonce compare
      alignonce compare --rules bp fa soft:0.5 --seeds 0 1 2 --epochs 10
      alignonce compare --data digits --depth 3 --out runs/digits
      alignonce compare --task lm --rules bp fa soft:1 dfa --out runs/language

    Args:
        config: what to compare.
        out: Folder for the results.
        source: where data come from.

    Returns:
        The exit code.
    """
    from rich.console import Console

    from alignonce.experiments.compare import compare as run_comparison
    from alignonce.experiments.compare import comparison_table
    from alignonce.experiments.files import ensure_writable

    ensure_writable(out)
    task = load_data_of(config, source)
    console = Console()
    print(data_line(task))
    result = run_comparison(config, task, out, console)
    console.print(comparison_table(result.runs))
    if result.skipped:
        print(f"{result.skipped} of {len(result.runs)} runs were finished before and not done again.")
    print(f"Results: {out}/ (one folder per run; {', '.join(file.name for file in result.files)})")
    if result.interrupted:
        print("Interrupted: what was measured so far is saved. The same command goes on from here.")
        return INTERRUPTED
    return OK
