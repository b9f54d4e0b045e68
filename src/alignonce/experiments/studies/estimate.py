"""A dry run: how many runs a study has, and about how long and how large they will be."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from alignonce import evolve
from alignonce.experiments.config.devices import device_name, pick_device
from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.data.image_data import DataUnavailable, ImageData
from alignonce.experiments.data.known import KNOWN_DATA
from alignonce.experiments.models import build_run_model
from alignonce.experiments.studies.folder import StudyFolder
from alignonce.experiments.studies.jobs import Source
from alignonce.experiments.studies.pool import default_workers
from alignonce.experiments.studies.study import Study
from alignonce.experiments.tasks.task import SavedTask
from alignonce.experiments.training.loop import build_optimizer


@dataclass(frozen=True)
class DataShape:
    """Sizes of a data set; `image_shape` is (channels, height, width)."""

    train_images: int
    test_images: int
    image_shape: tuple[int, int, int]
    num_classes: int


def shape_of(config: RunConfig, source: Source) -> DataShape | SavedTask:
    """Find out the sizes of a run's data.

    Args:
        config: the run.
        source: where data come from.

    Returns:
        The sizes; of a task other than images, the task itself.

    Raises:
        ValueError: the data are not known, and not to be had.
    """
    known = KNOWN_DATA.get(config.data)
    if known is not None and config.task == "images":
        return DataShape(known.train_images, known.test_images, known.image_shape, known.num_classes)
    data = source.load(config)
    if not isinstance(data, ImageData):
        return data
    return DataShape(len(data.train_labels), len(data.test_labels), data.image_shape, data.num_classes)


# Where a step on a few images takes longer than this, in seconds, it is scaled up in place of a whole batch.
FEW_IMAGES, QUICK = 16, 0.1
# A measurement of a number is a line of the run's metrics.csv.
BYTES_PER_STEP = 45


class Cost(NamedTuple):
    """Of one run: seconds of training, and bytes on disk."""

    seconds: float
    size: int


def estimate_run(config: RunConfig, shape: DataShape | SavedTask) -> Cost:
    """Time a step of a run on made-up images or on real text and rows, and scale it up.

    Args:
        config: the run.
        shape: of its data.

    Returns:
        The cost; evaluation is counted as a third of a step on the same examples.
    """
    device = pick_device(config.device)
    if isinstance(shape, DataShape):
        model, loss_of = _on_made_up_images(config, shape, device)
        train_size, test_size = shape.train_images, shape.test_images
    else:
        model, loss_of = _on_examples(config, shape, device)
        train_size, test_size = shape.facts.train_images, shape.facts.test_images
    optimizer = build_optimizer(model, config)

    def step(number: int, count: int) -> float:
        start = time.perf_counter()
        optimizer.zero_grad()
        loss = loss_of(count)
        loss.backward()
        optimizer.step()
        evolve(model, number)
        # Waits for the device.
        loss.item()
        return time.perf_counter() - start

    count = min(config.batch_size, FEW_IMAGES)
    step(1, count)
    seconds = step(2, count)
    if seconds < QUICK or device.type == "cuda":
        count = config.batch_size
        seconds = min(step(number, count) for number in range(3, 6))
    per_image = seconds / count
    train_images, test_images = (min(size, config.limit or size) for size in (train_size, test_size))
    seconds = config.epochs * per_image * (train_images + test_images / 3)
    state = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    steps = config.epochs * math.ceil(train_images / config.batch_size)
    return Cost(seconds, state * (1 + config.checkpoints) + BYTES_PER_STEP * steps)


def _on_made_up_images(
    config: RunConfig, shape: DataShape, device: torch.device
) -> tuple[nn.Module, Callable[[int], Tensor]]:
    channels = shape.image_shape[0]
    model = build_run_model(
        config, shape.image_shape, shape.num_classes, [0.5] * channels, [0.25] * channels
    ).to(device)

    def loss_of(count: int) -> Tensor:
        images = torch.rand(count, *shape.image_shape, device=device)
        return F.cross_entropy(model(images), torch.zeros(count, dtype=torch.int64, device=device))

    return model, loss_of


def _on_examples(
    config: RunConfig, task: SavedTask, device: torch.device
) -> tuple[nn.Module, Callable[[int], Tensor]]:
    model, there = task.build_model(config).to(device), task.to(device)

    def loss_of(count: int) -> Tensor:
        examples = torch.arange(min(count, there.train_size), device=device)
        return there.loss(model, there.batch(examples))[0]

    return model, loss_of


def print_estimate(
    study: Study, out: Path, console: Console, workers: int | None, cache: Path | None
) -> None:
    """Print the table of a dry run, which downloads nothing.

    Args:
        study: the study.
        out: where its results would go; what is done there is not counted.
        console: where to print.
        workers: runs at a time; None is what `run_study` would take.
        cache: the folder of downloaded data.
    """
    all_runs = StudyFolder(out).runs(study)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("part", "data", "runs", "done", "one run", "all", "disk"):
        table.add_column(
            column, justify="left" if column in ("part", "data") else "right", no_wrap=column != "data"
        )
    device, total, unknown = "cpu", Cost(0.0, 0), []
    costs: dict[tuple[str, str], Cost] = {}
    cells = study.cells()
    for cell in track(cells, "timing one step of each network", console=console, transient=True):
        # Rules cost about the same; one that has feedback weights stands for all.
        sample = cell.config.runs()[-1]
        device = device_name(pick_device(sample.device))
        try:
            costs[cell.part, cell.name] = estimate_run(sample, shape_of(sample, Source(cache, hub=False)))
        except (DataUnavailable, ValueError) as error:
            unknown.append(f"{cell.part} {cell.name}: {error}")
    runs = waiting = 0
    for part in study.parts:
        mine = [cell for cell in cells if cell.part == part.name]
        planned = [run for run in all_runs if run.cell.part == part.name]
        open_runs = [run for run in planned if not run.folder.is_finished()]
        known = [costs[key] for run in open_runs if (key := (run.cell.part, run.cell.name)) in costs]
        seconds, size = sum(c.seconds for c in known), sum(c.size for c in known)
        total = Cost(total.seconds + seconds, total.size + size)
        runs, waiting = runs + len(planned), waiting + len(open_runs)
        data = ", ".join(dict.fromkeys(cell.config.data for cell in mine))
        table.add_row(
            part.name, data, str(len(planned)), str(len(planned) - len(open_runs)),
            _time(seconds / len(known)) if known else "-", _time(seconds) if known else "-", _size(size),
        )  # fmt: skip
    console.print(table)
    at_once = workers or default_workers()
    measured = sum(part.measure is not None for part in study.parts)
    print(f"{study.title}: {runs} runs, {waiting} of them still to be done in {out}/")
    print(
        f"About {_time(total.seconds / at_once)} of training, {at_once} at a time, on this machine "
        f"({device}; one step of each network was timed), and {_size(total.size)} on disk."
    )
    if measured:
        print(f"Measuring the trained networks of {measured} of {len(study.parts)} parts comes on top.")
    for line in unknown:
        print(f"Not estimated: {line}")


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def _size(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"
