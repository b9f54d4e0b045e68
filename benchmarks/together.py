"""Time of many small runs one by one over the time of the same runs together.

    python benchmarks/together.py [--device cuda] [--runs 24] [--threads 1] [--rounds 5] [--work digits]

The runs differ in seed and learning rule, and are whole ones, from building the networks to the last test.
Both ways train in one process, in turn, round by round; a cell is the median of the rounds' ratios, with the
lower and upper quartile. On a GPU, --epochs gives small runs the length to outlast their beginning.
"""

import argparse
from typing import Any, NamedTuple

import torch

from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.data.loading import load_data
from alignonce.experiments.tasks import ImageClassification
from alignonce.experiments.training.loop import train
from alignonce.experiments.training.together import groups_of, train_together
from timing import interleave, machine

RULES = {"bp": ("bp",), "feedback": ("fa", "soft:0.25", "soft:0.5", "soft:0.75")}


class Work(NamedTuple):
    """What is trained: data, at most so many images, and settings of a run."""

    data: str
    limit: int | None
    settings: dict[str, Any]


WORK = {
    "digits, MLP 2x32, batch 32": Work("digits", None, {"depth": 2, "width": 32, "batch_size": 32}),
    "digits, MLP 10x32, batch 32": Work("digits", None, {"depth": 10, "width": 32, "batch_size": 32}),
    "digits, MLP 3x64, batch 64": Work("digits", None, {"depth": 3, "width": 64, "batch_size": 64}),
    "digits, CNN of 8 channels, batch 32": Work(
        "digits", 500, {"model": "resnet", "depth": 1, "width": 8, "batch_size": 32}
    ),
    "Fashion-MNIST, MLP 5x128, batch 128": Work(
        "fashion-mnist", 5000, {"depth": 5, "width": 128, "batch_size": 128}
    ),
    "Fashion-MNIST, MLP 10x256, batch 128": Work(
        "fashion-mnist", 5000, {"depth": 10, "width": 256, "batch_size": 128}
    ),
}


def measure(runs: int, epochs: int, rounds: int, device: str, rules: list[str], part: str) -> None:
    """Print the table of the work whose names hold a text."""
    print(f"{runs} runs of {epochs} epochs; {machine()}; device {device}\n")
    print("| work | rules | together | one by one over together |")
    print("|---|---|---|---|")
    for name, work in WORK.items():
        if part not in name:
            continue
        task = ImageClassification(load_data(work.data, limit=work.limit))
        for kind in rules:
            specs = RULES[kind]
            configs = [
                RunConfig(
                    **work.settings, data=work.data, limit=work.limit, epochs=epochs, device=device,
                    rule=specs[i % len(specs)], seed=i // len(specs),
                )
                for i in range(runs)
            ]  # fmt: skip
            groups = groups_of(configs, at_most=runs)
            if len(groups) > 1 or groups[0].alone:
                raise ValueError(f"runs must be 2 or more, so that they are one group; got {runs}")
            variants = {
                "together": lambda configs=configs, task=task: train_together(configs, task),
                "one by one": lambda configs=configs, task=task: [train(config, task) for config in configs],
            }
            together, alone = interleave(variants, rounds=rounds, warmup=1)
            cells = [name, kind, f"{together.milliseconds / 1000:.2f} s", str(alone)]
            print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--runs", type=int, default=24, help="runs that train together (default 24)")
    parser.add_argument("--epochs", type=int, default=2, help="of each run (default 2)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="on a CPU")
    parser.add_argument("--rounds", type=int, default=5, help="times each way is timed (default 5)")
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--work", default="", help="only work whose name holds this text")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    measure(args.runs, args.epochs, args.rounds, args.device, args.rules, args.work)


if __name__ == "__main__":
    main()
