"""The command line: reads arguments, calls one function, prints.

Modules that import torch or matplotlib are imported by the command that needs them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from pydantic import Field, ValidationError, field_validator

import alignonce
from alignonce.experiments.analysis.plan import AnalysisPlan
from alignonce.experiments.config import RULE_HELP, CompareConfig, NetworkConfig, RunConfig
from alignonce.experiments.rule_specs import canonical_rule

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from alignonce.experiments.data.image_data import ImageData

OK, FOUND_TRANSPORT, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
# Of analyse: some of the measures failed.
INCOMPLETE = 1

_EPILOG = """commands:
  compare   train one network under several learning rules; a table and a figure
  train     train one network under one learning rule; a run folder
  audit     find out by experiment whether the backward pass reads forward weights
  analyse   measure saved runs: what learning did, and what the result withstands

examples:
  alignonce compare
  alignonce train --rule soft:0.5 --out runs/mine
  alignonce audit --rule fa
  alignonce analyse runs/compare

All options of a command: alignonce COMMAND --help
"""


class AuditConfig(NetworkConfig):
    """What to audit."""

    rule: str = Field("soft:0.5", description=f"Learning rule: {RULE_HELP}.")
    seed: int = Field(0, ge=0, description="Seed of forward and feedback weights.")
    data: str = Field("fashion-mnist", min_length=1, description="Data set that the batch comes from.")
    batch_size: int = Field(128, ge=1, description="Images in the batch.")

    @field_validator("rule")
    @classmethod
    def _known_rule(cls, spec: str) -> str:
        return canonical_rule(spec)


def compare(
    config: Annotated[CompareConfig, tyro.conf.arg(name="")],
    out: Path = Path("runs/compare"),
    cache: Path | None = None,
    hub: bool = True,
) -> int:
    """Train one network under several learning rules, and compare them in a table and a figure.

    Within a seed, all rules start from the same forward weights and see the same batches. Runs that are
    finished in the output folder already are not done again, so an interrupted comparison goes on where it
    stopped.

    For example:
      alignonce compare
      alignonce compare --rules bp fa soft:0.5 --seeds 0 1 2 --epochs 10
      alignonce compare --data digits --depth 3 --out runs/digits

    Args:
        config: what to compare.
        out: Folder for the results.
        cache: Folder where downloaded data sets are kept.
        hub: Whether a data set that is not on this machine may be downloaded.

    Returns:
        The exit code.
    """
    from rich.console import Console

    from alignonce.experiments.compare import compare as run_comparison
    from alignonce.experiments.compare import comparison_table
    from alignonce.experiments.files import ensure_writable

    ensure_writable(out)
    data = _load(config.data, cache, hub, config.limit)
    console = Console()
    print(_data_line(data))
    result = run_comparison(config, data, out, console)
    console.print(comparison_table(result.runs))
    if result.skipped:
        print(f"{result.skipped} of {len(result.runs)} runs were finished before and not done again.")
    print(f"Results: {out}/ (one folder per run; {', '.join(file.name for file in result.files)})")
    if result.interrupted:
        print("Interrupted: what was measured so far is saved. The same command goes on from here.")
        return INTERRUPTED
    return OK


def train(
    config: Annotated[RunConfig, tyro.conf.arg(name="")],
    out: Path | None = None,
    track: tuple[Literal["alignment", "gradients", "flow"], ...] = (),
    track_every: int = 50,
    cache: Path | None = None,
    hub: bool = True,
) -> int:
    """Train one network under one learning rule, and save the run in a folder.

    A finished run is never overwritten: without --out, the next free folder in runs/ is used.

    For example:
      alignonce train
      alignonce train --rule fa --model resnet --epochs 3 --learning-rate 1e-3
      alignonce train --data digits --depth 2 --rule soft:0.75 --out runs/digits-soft
      alignonce train --checkpoints 5 --track alignment gradients flow --track-every 20

    Args:
        config: the run.
        out: Folder for the run. None: runs/DATA-MODEL-RULE-seedSEED.
        track: Measures to take during training, on 256 training images; saved as diagnostics.csv.
        track_every: Steps between these measures.
        cache: Folder where downloaded data sets are kept.
        hub: Whether a data set that is not on this machine may be downloaded.

    Returns:
        The exit code.
    """
    from rich.console import Console

    from alignonce.experiments.compare import comparison_table, train_and_save
    from alignonce.experiments.runs import RunFolder, free_folder
    from alignonce.experiments.tracking import build_tracker

    folder = RunFolder(out) if out is not None else free_folder(Path("runs"), config)
    folder.prepare()
    data = _load(config.data, cache, hub, config.limit)
    console = Console()
    print(_data_line(data))
    tracker = build_tracker(track, track_every, config, data) if track else None
    run = train_and_save(config, data, folder, console, tracker)
    console.print(comparison_table([run]))
    print(f"Results: {folder.path}/")
    return INTERRUPTED if run.summary.status == "interrupted" else OK


def audit(
    config: Annotated[AuditConfig, tyro.conf.arg(name="")], cache: Path | None = None, hub: bool = True
) -> int:
    """Find out by experiment whether the backward pass reads forward weights.

    Takes a real batch, spoils each forward weight between the forward and the backward pass, and reports the
    weights that made a difference. Exit code 0: none did; 1: some did.

    For example:
      alignonce audit --rule fa
      alignonce audit --rule bp               # backpropagation does transport weights
      alignonce audit --model resnet          # BatchNorm reads its own scale
      alignonce audit --model resnet --norms fixed

    Args:
        config: what to audit.
        cache: Folder where downloaded data sets are kept.
        hub: Whether a data set that is not on this machine may be downloaded.

    Returns:
        The exit code.
    """
    from torch.nn import functional as F

    from alignonce import audit_weight_transport
    from alignonce.experiments.models import build_run_model
    from alignonce.experiments.training import as_pixels

    data = _load(config.data, cache, hub, config.batch_size)
    run = RunConfig(**{name: value for name, value in config if name in RunConfig.model_fields})
    model = build_run_model(run, data.image_shape, data.num_classes, data.mean, data.std)
    images, labels = as_pixels(data.train_images), data.train_labels
    print(_data_line(data))
    report = audit_weight_transport(model, images, lambda logits: F.cross_entropy(logits, labels))
    print(report)
    if config.model == "resnet" and config.norms == "exact":
        print(
            "Note: BatchNorm multiplies the error by its own scale, one number per channel, on the way back. "
            "The audit counts that; with --norms fixed the scale's initial value takes its place."
        )
    return OK if report.free_of_transport else FOUND_TRANSPORT


def analyse(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    plan: Annotated[AnalysisPlan, tyro.conf.arg(name="")],
    out: Path = Path("runs/analysis"),
    cache: Path | None = None,
    hub: bool = True,
) -> int:
    """Measure saved runs: what learning did, and what the trained networks withstand.

    Writes one tidy table, analysis.csv, and figures, of the final networks and, with --checkpoints, of those
    on the way, too. What was measured before with the
    same settings is not measured again, so an interrupted analysis goes on where it stopped. Exit code 0: all
    was measured; 1: some measures failed, and are listed; the others are there.

    For example:
      alignonce analyse runs/compare
      alignonce analyse runs/compare --measures curvature landscape --images 1000
      alignonce analyse runs/compare --checkpoints     # runs trained with --checkpoints N
      alignonce analyse runs/bp-seed0 runs/fa-seed0 --out runs/bp-and-fa

    Args:
        runs: Folders of runs, or folders of such folders.
        plan: what to measure.
        out: Folder for the results.
        cache: Folder where downloaded data sets are kept.
        hub: Whether a data set that is not on this machine may be downloaded.

    Returns:
        The exit code.
    """
    from rich.console import Console

    from alignonce.experiments.analysis.run import analyse as run_analysis
    from alignonce.experiments.analysis.run import failure_lines
    from alignonce.experiments.analysis.summary import masking_lines, summary_table

    if not runs:
        raise ValueError("runs: give at least one folder of a run, or of runs")
    console = Console()
    result = run_analysis(
        runs, plan, out, lambda run: _load(run.config.data, cache, hub, run.config.limit), console
    )
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


def _load(name: str, cache: Path | None, hub: bool, limit: int | None) -> ImageData:
    from alignonce.experiments.data import DataUnavailable, load_data_or_digits

    try:
        return load_data_or_digits(name, cache=cache, hub=hub, limit=limit)
    except DataUnavailable as error:
        raise ValueError(f"data: {error}") from error


def _data_line(data: ImageData) -> str:
    return (
        f"Data: {data.name}, {len(data.train_labels):,} training and {len(data.test_labels):,} test images "
        f"(source: {data.source})"
    )


def _explain(detail: ErrorDetails) -> str:
    argument = ".".join(str(part) for part in detail["loc"]).replace("_", "-")
    reason = detail["msg"].removeprefix("Value error, ")
    if not argument:
        return reason
    return f"{argument}: {reason}" + ("" if detail["type"] == "value_error" else f", got {detail['input']!r}")


COMMANDS: dict[str, Callable[..., int]] = {
    "compare": compare,
    "train": train,
    "audit": audit,
    "analyse": analyse,
}


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: the arguments; None takes those of the process.

    Returns:
        The exit code: 0 all well, 1 the audit found weight transport or measures of an analysis failed, 2 a
        user's error, 130 Ctrl-C.
    """
    args = sys.argv[1:] if args is None else list(args)
    parser = argparse.ArgumentParser(
        prog="alignonce",
        description=alignonce.__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"alignonce {alignonce.__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=", ".join(COMMANDS))
    command = parser.parse_args(args[:1]).command
    try:
        code: int = tyro.cli(COMMANDS[command], prog=f"alignonce {command}", args=args[1:])
        return code
    except ValidationError as error:
        message = "; ".join(_explain(detail) for detail in error.errors())
    except BrokenPipeError:
        # Whoever read the output has seen enough; nor must the interpreter complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except (ValueError, OSError) as error:
        message = str(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    print(f"alignonce: error: {' '.join(message.split())}", file=sys.stderr)
    return USER_ERROR
