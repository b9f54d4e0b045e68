"""Time of a whole training step with each feedback format, over backpropagation's.

    python benchmarks/formats.py [--rounds 30] [--device cpu] [--work 1024] [--formats "Int8()"] [--compile]

A step is forward, loss, backward and fused Adam, under soft alignment with a cosine of 1. All formats run in
one process, interleaved; the ratio is taken round by round. Printed are its median and quartiles, the ratio
of the shortest times (which other load on the machine disturbs least), the mean cosine of W and B, and the
bytes of feedback weights for each byte of forward weights, as a table for benchmarks/README.md.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from alignonce import (
    FP8,
    Dense,
    FeedbackFormat,
    Int4,
    Int8,
    LowRank,
    RuleSummary,
    SemiStructured,
    Sign,
    SoftAlignment,
    Sparse,
    set_learning_rule,
)
from alignonce.experiments.models import SmallResNet
from step_time import cnn, mlp
from timing import interleave, machine

FORMATS: dict[str, FeedbackFormat] = {
    "Dense()": Dense(),
    "Dense(bfloat16)": Dense(torch.bfloat16),
    "LowRank(1/4)": LowRank(1 / 4),
    "LowRank(1/4, bfloat16)": LowRank(1 / 4, dtype=torch.bfloat16),
    "LowRank(1/8)": LowRank(1 / 8),
    "LowRank(1/8, bfloat16)": LowRank(1 / 8, dtype=torch.bfloat16),
    "LowRank(1/16)": LowRank(1 / 16),
    "LowRank(1/16, bfloat16)": LowRank(1 / 16, dtype=torch.bfloat16),
    "Int8()": Int8(),
    "FP8()": FP8(),
    "Int4()": Int4(),
    "Sign()": Sign(),
    "SemiStructured()": SemiStructured(),
    "Sparse(0.5)": Sparse(0.5),
}

WORK: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP 1024x5, batch 128": (lambda: mlp(1024, 1024, 5), (128, 1024)),
    "MLP 1024x5, batch 256": (lambda: mlp(1024, 1024, 5), (256, 1024)),
    "MLP 2048x5, batch 256": (lambda: mlp(2048, 2048, 5), (256, 2048)),
    "MLP 4096x5, batch 512": (lambda: mlp(4096, 4096, 5), (512, 4096)),
    "CNN 3x32x32, batch 64": (cnn, (64, 3, 32, 32)),
    "ResNet 1x28x28, 64 wide, batch 128": (lambda: SmallResNet((1, 28, 28), 10, 1, 64), (128, 1, 28, 28)),
}


def training_step(
    build: Callable[[], nn.Module],
    shape: tuple[int, ...],
    format: FeedbackFormat | None,
    device: str,
    compiled: bool = False,
) -> tuple[Callable[[], None], RuleSummary | None]:
    """A closure that makes one training step of a fresh network; without a format, by backpropagation."""
    torch.manual_seed(0)
    model = build().to(device)
    x, y = torch.randn(shape, device=device), torch.randint(0, 10, shape[:1], device=device)
    summary = None if format is None else set_learning_rule(model, SoftAlignment(1.0), format=format)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    forward = torch.compile(model, dynamic=False) if compiled else model

    def step() -> None:
        loss = F.cross_entropy(forward(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()  # last: memory.py counts on a step that leaves nothing behind

    return step, summary


def describe(summary: RuleSummary) -> tuple[str, str]:
    """Mean cosine, and extra bytes for each forward byte (of float32), of a whole network."""
    forward = sum(4 * torch.Size(row.shape).numel() for row in summary.rows)
    cosine = statistics.mean(row.cosine for row in summary.rows)
    return f"{cosine:.3f}", f"{summary.extra_bytes / forward:.3f}"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30, help="timings of each format (default 30)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--work", default="", help="only the networks whose name holds this text")
    parser.add_argument("--compile", action="store_true", help="compiled steps, backpropagation's too")
    args = parser.parse_args()
    print(f"{machine()}; device {args.device}\n")
    print("| work | format | step | over backpropagation | of the fastest | cosine | extra / forward bytes |")
    print("|---|---|---|---|---|---|---|")
    for work, (build, shape) in WORK.items():
        if args.work not in work:
            continue
        torch.compiler.reset()
        steps, descriptions = {}, {"backpropagation": ("", "")}
        steps["backpropagation"], _ = training_step(build, shape, None, args.device, args.compile)
        for name in args.formats:
            steps[name], summary = training_step(build, shape, FORMATS[name], args.device, args.compile)
            assert summary is not None
            descriptions[name] = describe(summary)
        for ratio in interleave(steps, rounds=args.rounds, warmup=2):
            cells = [work, ratio.name, f"{ratio.milliseconds:.1f} ms", str(ratio), f"{ratio.fastest:.3f}"]
            cells += descriptions[ratio.name]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
