"""`alignonce train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from alignonce.commands.common import INTERRUPTED, OK, data_line, load_images
from alignonce.experiments.config import RunConfig


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
    data = load_images(config.data, cache, hub, config.limit)
    console = Console()
    print(data_line(data))
    tracker = build_tracker(track, track_every, config, data) if track else None
    run = train_and_save(config, data, folder, console, tracker)
    console.print(comparison_table([run]))
    print(f"Results: {folder.path}/")
    return INTERRUPTED if run.summary.status == "interrupted" else OK
