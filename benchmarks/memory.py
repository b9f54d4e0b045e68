"""Bytes of feedback weights, and peak memory of a training step, with each feedback format.

    python benchmarks/memory.py [--device cpu] [--width 2048] [--depth 5] [--batch 256]

Forward weights, gradients and Adam's state are the same for all; what differs is the feedback weights and
what a step holds for a time, such as a decompressed B. On a GPU the peak is the allocator's; on a CPU it is
the most that PyTorch held at once, by its profiler.
"""

import argparse

import torch
from torch.profiler import ProfilerActivity, profile

from formats import FORMATS, training_step
from step_time import mlp
from timing import machine

MEGABYTE = 2**20


def peak_of(step: object, device: str) -> float:
    """Bytes that one step allocates at most beyond what is there before it."""
    assert callable(step)
    step()  # Adam's state is made at the first step
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    # A step frees what it allocates: blocks from before, whose size the profiler may not know, do not count.
    held, most = 0, 0
    for event in recorded.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    args = parser.parse_args()
    print(f"MLP {args.width}x{args.depth}, batch {args.batch}; {machine()}; device {args.device}\n")
    print("| format | feedback weights | over forward weights | peak of a step |")
    print("|---|---|---|---|")
    for name in ("backpropagation", *args.formats):
        step, summary = training_step(
            lambda: mlp(args.width, args.width, args.depth),
            (args.batch, args.width),
            FORMATS.get(name),
            args.device,
        )
        extra = summary.extra_bytes if summary else 0
        forward = sum(4 * torch.Size(row.shape).numel() for row in summary.rows) if summary else 1
        peak = peak_of(step, args.device)
        print(
            f"| {name} | {extra / MEGABYTE:.1f} MiB | {extra / forward:.4f} | {peak / MEGABYTE:.1f} MiB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
