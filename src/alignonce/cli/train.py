"""`alignonce train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from alignonce.cli.common import FROM_ANYWHERE, INTERRUPTED, OK, Source, data_line, load_data_of
from alignonce.experiments.config.run import RunConfig


def train(
    config: Annotated[RunConfig, tyro.conf.arg(name="")],
    out: Path | None = None,
    track: tuple[Literal["alignment", "gradients", "flow"], ...] = (),
    track_every: int = 50,
    save_every: float = 60.0,
    save_every_steps: int | None = None,
    source: Source = FROM_ANYWHERE,
) -> int:
    """Train one network under one learning rule, and save the run in a folder.

    A finished run is never overwritten: without --out, the next free folder in runs/ is used. To resume a
    run that was cut short (Ctrl-C, SIGTERM, a crash), give the same command again.

    To train in several processes, on one node or many, use --devices, torchrun or Slurm's srun.

    For example:
      alignonce train
      alignonce train --rule fa --model resnet --epochs 3 --learning-rate 1e-3
      alignonce train --data digits --depth 2 --rule soft:0.75 --out runs/digits-soft
      alignonce train --checkpoints 5 --track alignment gradients flow --track-every 20
      alignonce train --task lm --rule soft:1                          # a small GPT on Python's sources
      alignonce train --task lm --data my/texts --vocabulary 4096
      alignonce train --task tabular --data wine
      alignonce train --devices 2 --strategy fsdp --format low-rank:1/8 --precision bf16-mixed

    Args:
        config: the run.
        out: Folder for the run. None: runs/DATA-MODEL-RULE-seedSEED.
        track: Measurements to take during training, on 256 training images; saved as diagnostics.csv.
        track_every: Steps between these measurements.
        save_every: Seconds between the points from which the run can be resumed.
        save_every_steps: Steps between these points, if that comes first.
        source: where data come from.

    Returns:
        The exit code.
    """
    from rich.console import Console

    from alignonce.experiments.compare import comparison_table
    from alignonce.experiments.runs.finding import free_folder
    from alignonce.experiments.runs.folder import RunFolder
    from alignonce.experiments.runs.train_into import train_and_save
    from alignonce.experiments.training.engine import Engine, as_launched
    from alignonce.experiments.training.resuming import SaveEvery
    from alignonce.experiments.training.tracking import build_tracker

    every = SaveEvery(save_every, save_every_steps)
    config = as_launched(config)
    engine = Engine(config)
    folder = RunFolder(out if out is not None else Path())
    if engine.is_first:
        folder = folder if out is not None else free_folder(Path("runs"), config)
        folder.prepare()
    folder = engine.from_first(folder)
    task = load_data_of(config, source)
    console = Console(quiet=not engine.is_first)
    console.print(data_line(task), highlight=False, soft_wrap=True)
    tracker = build_tracker(track, track_every, config, task) if track else None
    run = train_and_save(config, task, folder, console, tracker, engine=engine, every=every)
    console.print(comparison_table([run]))
    console.print(f"Results: {folder.path}/", highlight=False, soft_wrap=True)
    return INTERRUPTED if run.summary.status == "interrupted" else OK
