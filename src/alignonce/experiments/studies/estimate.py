"""A dry run: how many runs a study has, and about how long and how large they will be."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import NamedTuple

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from alignonce import evolve
from alignonce.experiments.config.devices import device_name, pick_device
from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.data.data_facts import DataFacts
from alignonce.experiments.data.image_data import ImageData
from alignonce.experiments.data.known import KNOWN_DATA
from alignonce.experiments.data.source import DataSource
from alignonce.experiments.studies.folder import StudySnapshot
from alignonce.experiments.studies.jobs import load_once
from alignonce.experiments.studies.pool import default_workers
from alignonce.experiments.tasks import ImageClassification, Task
from alignonce.experiments.training.loop import build_optimizer


def task_to_time(config: RunConfig, source: DataSource) -> tuple[Task, DataFacts]:
    """Make a task that takes as long as that of a run.

    Args:
        config: the run.
        source: where data come from.

    Returns:
        The task, and the facts of the run's data. Of image data that are known, a batch is made up, and
        nothing is loaded.

    Raises:
        ValueError: the data are not known, and unavailable.
    """
    known = KNOWN_DATA.get(config.data)
    if known is None or config.task != "images":
        task = load_once(config, source)
        return task, task.facts
    generator = torch.Generator().manual_seed(0)
    size = (config.batch_size, *known.image_shape)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    labels = torch.arange(config.batch_size) % known.num_classes
    classes = tuple(map(str, range(known.num_classes)))
    batch = ImageClassification(ImageData(known.name, "made up", images, labels, images, labels, classes))
    sizes = {"train_examples": known.train_images, "test_examples": known.test_images}
    return batch, batch.facts.model_copy(update=sizes)


# Where a step on a few images takes longer than this, in seconds, it is scaled up in place of a whole batch.
FEW_IMAGES, QUICK = 16, 0.1
# A measurement of a number is a line of the run's metrics.csv.
BYTES_PER_STEP = 45


class Cost(NamedTuple):
    """Of one run: seconds of training, and bytes on disk."""

    seconds: float
    size: int


def estimate_run(config: RunConfig, task: Task, facts: DataFacts) -> Cost:
    """Time a step of a run, and scale it up.

    Args:
        config: the run.
        task: what it learns, or a task that takes as long.
        facts: of its data.

    Returns:
        The cost; evaluation is counted as a third of a step on the same examples.
    """
    device = pick_device(config.device)
    model = task.build_model(config).to(device)
    task = task.for_run(config, device)
    optimizer = build_optimizer(model, config)

    def step(number: int, count: int) -> float:
        start = time.perf_counter()
        optimizer.zero_grad()
        examples = torch.arange(min(count, task.train_size), device=device)
        loss, _ = task.loss(model, task.batch(examples))
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
    per_example = seconds / count
    sizes = facts.train_examples, facts.test_examples
    train_size, test_size = (min(size, config.limit or size) for size in sizes)
    seconds = config.epochs * per_example * (train_size + test_size / 3)
    state = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    steps = config.epochs * math.ceil(train_size / config.batch_size)
    return Cost(seconds, state * (1 + config.checkpoints) + BYTES_PER_STEP * steps)


def print_estimate(
    snapshot: StudySnapshot, source: DataSource, console: Console, workers: int | None
) -> None:
    """Print the table of a dry run, which downloads nothing.

    Args:
        snapshot: of the study; what is done is not counted.
        source: where data come from; no hub is asked.
        console: where to print.
        workers: runs at a time; None is what `run_study` would take.
    """
    study, source = snapshot.study, replace(source, hub=False)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("part", "data", "runs", "done", "one run", "all", "disk"):
        table.add_column(
            column, justify="left" if column in ("part", "data") else "right", no_wrap=column != "data"
        )
    device, total, unknown = "cpu", Cost(0.0, 0), []
    costs: dict[tuple[str, str], Cost] = {}
    # Rules cost about the same; the last of a cell, which has feedback weights, stands for all.
    samples = {run.cell: run.config for run in snapshot.runs}
    for cell, sample in track(
        samples.items(), "timing one step of each network", console=console, transient=True
    ):
        device = device_name(pick_device(sample.device))
        try:
            costs[cell.part, cell.name] = estimate_run(sample, *task_to_time(sample, source))
        except ValueError as error:
            unknown.append(f"{cell.part} {cell.name}: {error}")
    runs = waiting = 0
    for part in study.parts:
        planned = [run for run in snapshot.runs if run.cell.part == part.name]
        open_runs = [run for run in planned if run.summary is None]
        known = [costs[key] for run in open_runs if (key := (run.cell.part, run.cell.name)) in costs]
        seconds, size = sum(c.seconds for c in known), sum(c.size for c in known)
        total = Cost(total.seconds + seconds, total.size + size)
        runs, waiting = runs + len(planned), waiting + len(open_runs)
        data = ", ".join(dict.fromkeys(run.config.data for run in planned))
        table.add_row(
            part.name, data, str(len(planned)), str(len(planned) - len(open_runs)),
            _time(seconds / len(known)) if known else "-", _time(seconds) if known else "-", _size(size),
        )  # fmt: skip
    console.print(table)
    at_once = workers or default_workers()
    measured = sum(part.measure is not None for part in study.parts)
    print(f"{study.title}: {runs} runs, {waiting} of them still to be done in {snapshot.folder.path}/")
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
