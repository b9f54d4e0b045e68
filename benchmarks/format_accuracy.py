"""Test accuracy under soft alignment, cosine 1, with each feedback format, next to backpropagation.

    python benchmarks/format_accuracy.py [--depth 5] [--width 256] [--epochs 3] [--seeds 0]

Every run of a seed starts from the same forward weights and sees the same batches. Printed as a table for
docs/cheaper-than-backprop.md.
"""

import argparse
import statistics

import torch
import torch.nn.functional as F

from alignonce import (
    FP8,
    Dense,
    FeedbackFormat,
    Int4,
    Int8,
    LowRank,
    SemiStructured,
    Sign,
    SoftAlignment,
    Sparse,
    alignment,
    set_learning_rule,
)
from alignonce.experiments.data.image_data import ImageData
from alignonce.experiments.data.loading import load_data
from alignonce.experiments.models import build_model
from alignonce.experiments.network_config import NetworkConfig
from alignonce.experiments.seeds import derived_seed
from alignonce.experiments.training import as_pixels, evaluate
from timing import machine

FORMATS: dict[str, tuple[float, FeedbackFormat] | None] = {
    "backpropagation": None,
    "Dense()": (1, Dense()),
    "Dense(), cosine 0.6": (0.6, Dense()),
    "Dense(bfloat16)": (1, Dense(torch.bfloat16)),
    "LowRank(1/4)": (1, LowRank(1 / 4)),
    "LowRank(1/8)": (1, LowRank(1 / 8)),
    "LowRank(1/8, bfloat16)": (1, LowRank(1 / 8, dtype=torch.bfloat16)),
    "LowRank(1/16)": (1, LowRank(1 / 16)),
    "Int8()": (1, Int8()),
    "FP8()": (1, FP8()),
    "Int4()": (1, Int4()),
    "Sign()": (1, Sign()),
    "SemiStructured()": (1, SemiStructured()),
    "Sparse(0.5)": (1, Sparse(0.5)),
    "Sparse(0.1)": (1, Sparse(0.1)),
}


def accuracy(
    data: ImageData, network: NetworkConfig, name: str, epochs: int, seed: int
) -> tuple[float, float, float]:
    """Train; return the test accuracy, the mean cosine at the start, and extra bytes per forward byte."""
    model = build_model(network, seed, data.image_shape, data.num_classes, data.mean, data.std)
    chosen, cosine, extra = FORMATS[name], 1.0, 0.0
    if chosen is not None:
        summary = set_learning_rule(model, SoftAlignment(chosen[0], seed), format=chosen[1])
        cosine = statistics.mean(list(alignment(model).values())[1:])  # no error goes through the first
        extra = summary.extra_bytes / sum(4 * torch.Size(row.shape).numel() for row in summary.rows)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    batches = torch.Generator().manual_seed(derived_seed(seed, "batches"))
    for _ in range(epochs):
        for batch in torch.randperm(len(data.train_labels), generator=batches).split(128):
            loss = F.cross_entropy(model(as_pixels(data.train_images[batch])), data.train_labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return evaluate(model, data.test_images, data.test_labels)[1], cosine, extra


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depth", type=int, default=5, help="hidden layers (default 5)")
    parser.add_argument("--width", type=int, default=256, help="units in each (default 256)")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    args = parser.parse_args()
    data = load_data(args.data)
    network = NetworkConfig(model="mlp", depth=args.depth, width=args.width)
    print(f"{data.name}, MLP {args.depth} x {args.width}, {args.epochs} epochs; {machine()}\n")
    seeds = " | ".join(f"seed {seed}" for seed in args.seeds)
    print(f"| format | cosine | extra bytes / forward bytes | {seeds} | mean |")
    print("|---|---|---|---" + "|---" * len(args.seeds) + "|")
    for name in args.formats:
        results = [accuracy(data, network, name, args.epochs, seed) for seed in args.seeds]
        found = [r[0] for r in results]
        cells = [f"{results[0][1]:.3f}", f"{results[0][2]:.3f}", *(f"{a:.4f}" for a in found)]
        print(f"| {name} | {' | '.join(cells)} | {statistics.mean(found):.4f} |", flush=True)


if __name__ == "__main__":
    main()
