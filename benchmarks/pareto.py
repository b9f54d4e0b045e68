"""Test accuracy against the time of a training step, for each feedback format: a table and a figure.

    python benchmarks/pareto.py accuracy [--network cnn] [--formats "Int8()"] [--seeds 0 1 2] [--epochs 3]
    python benchmarks/pareto.py time figure

Every run of a seed starts from the same forward weights and sees the same batches, under soft alignment with
a cosine of 1 unless its name says otherwise. Runs are added to a file, which says what is done already; times
are taken of the same networks, interleaved. The table and the figure are those of
docs/cheaper-than-backprop.md.
"""

import argparse
import csv
import io
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from alignonce import Dense, FeedbackFormat, LowRank, RuleSummary, SoftAlignment, set_learning_rule
from alignonce.experiments.config.run import NetworkConfig
from alignonce.experiments.config.schedules import Schedule, rate_factor
from alignonce.experiments.config.seeds import derived_seed
from alignonce.experiments.data.image_data import ImageData
from alignonce.experiments.data.loading import load_data
from alignonce.experiments.figures.style import save_figure
from alignonce.experiments.files import write_atomically
from alignonce.experiments.models import build_model
from alignonce.experiments.training.loop import as_pixels, evaluate
from formats import FORMATS
from timing import interleave, machine

NETWORKS = {
    "mlp": NetworkConfig(model="mlp", depth=5, width=1024),
    "mlp2048": NetworkConfig(model="mlp", depth=5, width=2048),
    "mlp4096": NetworkConfig(model="mlp", depth=5, width=4096),
    "cnn": NetworkConfig(model="resnet", depth=1, width=64),
}
BATCH = {"mlp": 128, "mlp2048": 256, "mlp4096": 512, "cnn": 128}

MARKERS = "osD^vP*Xh<>"


class Choice(NamedTuple):
    """A way of learning with feedback weights."""

    cosine: float
    """That B starts with."""
    format: FeedbackFormat
    fitted: bool = True
    """To the errors that training images cause, if the format makes use of them."""


CHOICES: dict[str, Choice | None] = {
    "backpropagation": None,
    **{name: Choice(1.0, format) for name, format in FORMATS.items()},
    "LowRank(1/2, bfloat16)": Choice(1.0, LowRank(1 / 2, dtype=torch.bfloat16)),
    "LowRank(1/8, bfloat16), not fitted": Choice(1.0, LowRank(1 / 8, dtype=torch.bfloat16), fitted=False),
    "Dense(), cosine 0.6": Choice(0.6, Dense()),
}
"""By name; None for backpropagation."""


def build(data: ImageData, network: str, name: str, seed: int) -> tuple[nn.Module, RuleSummary | None]:
    """A network in the way of learning of this name."""
    model = build_model(NETWORKS[network], seed, data.image_shape, data.num_classes, data.mean, data.std)
    choice = CHOICES[name]
    if choice is None:
        return model, None
    inputs = as_pixels(data.train_images[:1024]) if choice.fitted else None
    rule = SoftAlignment(choice.cosine, seed)
    return model, set_learning_rule(model, rule, format=choice.format, inputs=inputs)


def stepper(model: nn.Module) -> Callable[..., None]:
    """A function that makes one training step on a batch of stored images and labels, at a part of 1e-4."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def step(images: torch.Tensor, labels: torch.Tensor, rate: float = 1.0) -> None:
        optimizer.param_groups[0]["lr"] = 1e-4 * rate
        loss = F.cross_entropy(model(as_pixels(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def train(
    data: ImageData, network: str, name: str, seed: int, epochs: int, images: int, schedule: Schedule
) -> dict[str, Any]:
    """Train on so many images in each epoch, and test: a row of the file of accuracies."""
    model, summary = build(data, network, name, seed)
    batches = torch.Generator().manual_seed(derived_seed(seed, "batches"))
    order = [torch.randperm(len(data.train_labels), generator=batches)[:images] for _ in range(epochs)]
    steps = [batch for epoch in order for batch in epoch.split(BATCH[network])]
    step = stepper(model)
    for index, batch in enumerate(steps):
        rate = rate_factor(schedule, index, len(steps))
        step(data.train_images[batch], data.train_labels[batch], rate)
    rows = summary.rows[1:] if summary else ()  # no error goes back through the first layer
    return {
        "network": network,
        "format": name,
        "epochs": epochs,
        "images": images,
        "schedule": schedule,
        "seed": seed,
        "accuracy": evaluate(model, data.test_images, data.test_labels)[1],
        "cosine": statistics.mean(row.cosine for row in rows) if rows else 1.0,
    }


def add_accuracies(data: ImageData, args: argparse.Namespace) -> None:
    """Train what the file of accuracies does not hold yet."""
    path = args.out / "accuracy.csv"
    for seed in args.seeds:
        for name in args.formats:
            numbers = {"epochs": str(args.epochs), "images": str(args.images), "seed": str(seed)}
            key = {"network": args.network, "format": name, "schedule": args.schedule, **numbers}
            if any(key.items() <= row.items() for row in read(path)):
                continue
            row = train(data, args.network, name, seed, args.epochs, args.images, args.schedule)
            write(path, [*read(path), row])
            print(row, flush=True)


def add_times(data: ImageData, args: argparse.Namespace) -> None:
    """Time all ways of learning of a network against backpropagation."""
    images, labels = data.train_images[: BATCH[args.network]], data.train_labels[: BATCH[args.network]]

    def call(name: str) -> Callable[[], None]:
        step = stepper(build(data, args.network, name, 0)[0])
        return lambda: step(images, labels)

    names = dict.fromkeys(["backpropagation", *args.formats])
    ratios = interleave({name: call(name) for name in names}, rounds=args.rounds, warmup=2)
    path = args.out / "time.csv"
    others = [r for r in read(path) if r["network"] != args.network or r["format"] not in names]
    rows = [{"network": args.network, "format": r.name, "milliseconds": r.milliseconds,
             "ratio": r.median, "low": r.low, "high": r.high} for r in ratios]  # fmt: skip
    write(path, [*others, *rows])
    print(machine())


def report(args: argparse.Namespace) -> None:
    """Print the table and draw the figure of what was measured of a network."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, FormatStrFormatter, NullLocator

    accuracies = [
        row
        for row in read(args.out / "accuracy.csv")
        if (row["network"], row["schedule"]) == (args.network, args.schedule)
    ]
    times = {r["format"]: r for r in read(args.out / "time.csv") if r["network"] == args.network}
    print("| format | step over backpropagation | cosine | accuracy, each seed | mean |")
    print("|---|---|---|---|---|")
    figure, axes = plt.subplots(figsize=(9.5, 4.8), layout="constrained")
    for name in CHOICES:
        rows = sorted((r for r in accuracies if r["format"] == name), key=lambda r: int(r["seed"]))
        if not rows or name not in times:
            continue
        found = [float(r["accuracy"]) for r in rows]
        ratio, low, high = (float(times[name][k]) for k in ("ratio", "low", "high"))
        mean = statistics.mean(found)
        cells = [name, f"{ratio:.3f} ({low:.3f} to {high:.3f})", f"{float(rows[0]['cosine']):.3f}",
                 ", ".join(f"{a:.4f}" for a in found), f"{mean:.4f}"]  # fmt: skip
        print("| " + " | ".join(cells) + " |")
        axes.errorbar(
            ratio, mean, xerr=[[max(0, ratio - low)], [max(0, high - ratio)]],
            yerr=[[mean - min(found)], [max(found) - mean]], elinewidth=0.8, linestyle="none",
            marker=MARKERS[len(axes.containers) % len(MARKERS)], label=f"{name}: {ratio:.2f}, {mean:.4f}",
        )  # fmt: skip
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_xscale("log")  # formats that save time lie close together, those that cost time far apart
    axes.xaxis.set_major_locator(FixedLocator([0.7, 0.75, 0.8, 0.9, 1, 1.2, 1.5, 2]))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="time of a training step / backpropagation's", ylabel="test accuracy")
    axes.set_title(f"Feedback formats: {args.network}, Fashion-MNIST, {accuracies[0]['epochs']} epochs")
    axes.legend(title="format: time, accuracy", fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    save_figure(figure, args.figure)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows to a CSV file."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue())


def main() -> None:
    """Do what is asked, in order."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="+", choices=["accuracy", "time", "figure"])
    parser.add_argument("--network", default="mlp", choices=list(NETWORKS))
    parser.add_argument("--formats", nargs="+", default=list(CHOICES), choices=list(CHOICES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=60_000, help="training images in each epoch")
    parser.add_argument("--schedule", default="constant", choices=["constant", "cosine"])
    parser.add_argument("--rounds", type=int, default=20, help="timings of each format (default 20)")
    parser.add_argument("--out", type=Path, default=Path("runs/pareto"))
    parser.add_argument("--figure", type=Path, default=Path("docs/images/pareto"))
    args = parser.parse_args()
    data = load_data("fashion-mnist")
    if "accuracy" in args.what:
        add_accuracies(data, args)
    if "time" in args.what:
        add_times(data, args)
    if "figure" in args.what:
        report(args)


if __name__ == "__main__":
    main()
