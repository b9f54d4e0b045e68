"""Structured against random misalignment of the same cosine: how well the error gets back, over training.

    python benchmarks/structure.py [--depths 5 10] [--width 256] [--epochs 3] [--seeds 0 1 2]

An MLP learns Fashion-MNIST with B of rank 1/8, with the signs of W as B, and with random soft alignment of
the cosines that these two have. Printed are, over training, means over the layers that an error goes
through: the cosine of W and B, the functional alignment (the cosine of what B and W make of the errors there
are) and the alignment of dW with the exact gradient, both on 512 test images; and the test accuracy. Each is
the mean over the seeds, with the least and the greatest.

An error that comes through k layers whose misalignments have nothing to do with each other keeps the product
of their cosines. What that would make of the alignment of dW is printed beside it.
"""

import argparse
import statistics
from collections import defaultdict

import torch
import torch.nn.functional as F
from torch import nn

from alignonce import Dense, FeedbackFormat, LowRank, Sign, SoftAlignment, alignment, set_learning_rule
from alignonce.diagnostics import compare_gradients, functional_alignment
from alignonce.experiments.config.run import NetworkConfig
from alignonce.experiments.config.seeds import derived_seed
from alignonce.experiments.data.image_data import ImageData
from alignonce.experiments.data.loading import load_data
from alignonce.experiments.models import build_model
from alignonce.experiments.training.loop import as_pixels, evaluate

COMPRESSED: dict[str, FeedbackFormat] = {
    "rank 1/8": LowRank(1 / 8),
    "rank 1/8, fitted": LowRank(1 / 8),
    "signs": Sign(),
}

COLUMNS = "weight cosine", "functional alignment", "independent layers", "gradient alignment", "accuracy"


def measures(model: nn.Module, data: ImageData, depth: int) -> list[float]:
    """The numbers of COLUMNS."""
    batch = as_pixels(data.test_images[:512]), data.test_labels[:512]
    # No error goes back through the first layer.
    weight = statistics.mean(list(alignment(model).values())[1:])
    signal = statistics.mean(
        [a.cosine for a in functional_alignment(model, batch, F.cross_entropy).values()][1:]
    )
    independent = statistics.mean(signal**layers for layers in range(1, depth + 1))
    # The last layer's gradient is exact under every rule.
    gradient = [a.cosine for a in compare_gradients(model, batch, F.cross_entropy).weight.values()][:-1]
    accuracy = evaluate(model, data.test_images, data.test_labels)[1]
    return [weight, signal, independent, statistics.mean(gradient), accuracy]


def train(
    data: ImageData, depth: int, width: int, epochs: int, seed: int, label: str, cosine: float
) -> dict[float, list[float]]:
    """Train and measure at the start, after a tenth of an epoch and after each one: measures by epoch."""
    network = NetworkConfig(model="mlp", depth=depth, width=width)
    model = build_model(network, seed, data.image_shape, data.num_classes, data.mean, data.std)
    inputs = as_pixels(data.train_images[:1024]) if label == "rank 1/8, fitted" else None
    set_learning_rule(
        model, SoftAlignment(cosine, seed), format=COMPRESSED.get(label, Dense()), inputs=inputs
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    batches = torch.Generator().manual_seed(derived_seed(seed, "batches"))
    per_epoch = -(-len(data.train_labels) // 128)
    step, measured = 0, {0.0: measures(model, data, depth)}
    for _ in range(epochs):
        for batch in torch.randperm(len(data.train_labels), generator=batches).split(128):
            loss = F.cross_entropy(model(as_pixels(data.train_images[batch])), data.train_labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step == per_epoch // 10 or step % per_epoch == 0:
                measured[round(step / per_epoch, 1)] = measures(model, data, depth)
    return measured


def main() -> None:
    """Train and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depths", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--formats", nargs="+", default=list(COMPRESSED), choices=list(COMPRESSED))
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    data = load_data("fashion-mnist")
    print(f"| depth | B | epoch | {' | '.join(COLUMNS)} |")
    print("|---" * (3 + len(COLUMNS)) + "|")
    for depth in args.depths:
        for label in args.formats:
            found: dict[tuple[str, float], list[list[float]]] = defaultdict(list)
            for seed in args.seeds:
                size = depth, args.width, args.epochs, seed
                compressed = train(data, *size, label, 1.0)
                random = train(data, *size, f"random, as {label}", round(compressed[0.0][0], 3))
                for name, measured in ((label, compressed), (f"random, as {label}", random)):
                    for epoch, values in measured.items():
                        found[name, epoch].append(values)
            for (name, epoch), of_seeds in found.items():
                cells = [
                    f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
                    for values in zip(*of_seeds, strict=True)
                ]
                print(f"| {depth} | {name} | {epoch} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
