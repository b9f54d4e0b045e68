"""Time of ``set_learning_rule`` on one wide linear layer, for each feedback format.

    python benchmarks/conversion.py [--width 4096] [--rounds 5] [--fit 1024]

It is spent once, before learning: B is made from W (soft alignment with a cosine of 1, so that the format
alone decides the cosine), compressed, and compared to W for the summary. With ``--fit``, low rank is fitted
to errors of so many examples, which are sent back first. Printed are the median and the shortest time, and
the cosine of W and B.
"""

import argparse
import statistics
import time

import torch
from torch import nn

from alignonce import FeedbackFormat, SoftAlignment, set_learning_rule
from formats import FORMATS
from timing import machine


def convert(width: int, format: FeedbackFormat, examples: int) -> tuple[float, float]:
    """Seconds that the conversion of a fresh layer takes, and the cosine of W and B."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, width, bias=False))
    inputs = torch.randn(examples, width) if examples else None
    start = time.perf_counter()
    summary = set_learning_rule(model, SoftAlignment(1.0), format=format, inputs=inputs)
    return time.perf_counter() - start, summary.rows[0].cosine


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--fit", type=int, default=0, help="examples to fit low rank by (default: none)")
    args = parser.parse_args()
    print(f"one linear layer of {args.width}x{args.width}; {machine()}\n")
    print("| format | median | shortest | cosine |\n|---|---|---|---|")
    for name in args.formats:
        convert(args.width, FORMATS[name], args.fit)
        rounds = [convert(args.width, FORMATS[name], args.fit) for _ in range(args.rounds)]
        seconds, cosines = zip(*rounds, strict=True)
        cells = [f"{statistics.median(seconds):.2f} s", f"{min(seconds):.2f} s", f"{cosines[0]:.4f}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
