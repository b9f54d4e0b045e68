"""Structured against random misalignment of the same cosine: how well the error gets back, over training.

    python benchmarks/structure.py [--depths 5 10] [--width 256] [--epochs 3] [--seed 0]

An MLP learns Fashion-MNIST with B of rank 1/8, with the signs of W as B, and with random soft alignment of
the cosines that these two have. Printed are, over training, means over the layers that an error goes
through: the cosine of W and B, the functional alignment (the cosine of what B and W make of the errors there
are) and the alignment of dW with the exact gradient, both on 512 test images; and the test accuracy.
"""

import argparse
import statistics

import torch
import torch.nn.functional as F
from torch import nn

from alignonce import Dense, FeedbackFormat, LowRank, Sign, SoftAlignment, alignment, set_learning_rule
from alignonce.diagnostics import compare_gradients, functional_alignment
from alignonce.experiments.config import NetworkConfig
from alignonce.experiments.data.image_data import ImageData
from alignonce.experiments.data.loading import load_data
from alignonce.experiments.models import build_model
from alignonce.experiments.seeds import derived_seed
from alignonce.experiments.training import as_pixels, evaluate

COMPRESSED: dict[str, FeedbackFormat] = {"rank 1/8": LowRank(1 / 8), "signs": Sign()}


def measures(model: nn.Module, data: ImageData) -> list[float]:
    """Mean weight cosine, functional alignment, alignment of gradients, and test accuracy."""
    batch = as_pixels(data.test_images[:512]), data.test_labels[:512]
    # No error goes back through the first layer.
    weight = statistics.mean(list(alignment(model).values())[1:])
    signal = [a.cosine for a in functional_alignment(model, batch, F.cross_entropy).values()][1:]
    # The last layer's gradient is exact under every rule.
    gradient = [a.cosine for a in compare_gradients(model, batch, F.cross_entropy).weight.values()][:-1]
    accuracy = evaluate(model, data.test_images, data.test_labels)[1]
    return [weight, statistics.mean(signal), statistics.mean(gradient), accuracy]


def train(
    data: ImageData, depth: int, width: int, epochs: int, seed: int, label: str, cosine: float
) -> float:
    """Train, printing rows at the start, after a tenth of an epoch and after each one; the first cosine."""
    network = NetworkConfig(model="mlp", depth=depth, width=width)
    model = build_model(network, seed, data.image_shape, data.num_classes, data.mean, data.std)
    set_learning_rule(model, SoftAlignment(cosine, seed), format=COMPRESSED.get(label, Dense()))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    batches = torch.Generator().manual_seed(derived_seed(seed, "batches"))
    per_epoch = -(-len(data.train_labels) // 128)
    step, first = 0, measures(model, data)

    def row(values: list[float]) -> None:
        cells = [str(depth), label, f"{step / per_epoch:.1f}", *(f"{value:.3f}" for value in values)]
        print("| " + " | ".join(cells) + " |", flush=True)

    row(first)
    for _ in range(epochs):
        for batch in torch.randperm(len(data.train_labels), generator=batches).split(128):
            loss = F.cross_entropy(model(as_pixels(data.train_images[batch])), data.train_labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step == per_epoch // 10 or step % per_epoch == 0:
                row(measures(model, data))
    return first[0]


def main() -> None:
    """Train and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depths", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    data = load_data("fashion-mnist")
    print("| depth | B | epoch | weight cosine | functional alignment | gradient alignment | accuracy |")
    print("|---|---|---|---|---|---|---|")
    for depth in args.depths:
        for label in COMPRESSED:
            cosine = train(data, depth, args.width, args.epochs, args.seed, label, 1.0)
            train(data, depth, args.width, args.epochs, args.seed, f"random, as {label}", round(cosine, 3))


if __name__ == "__main__":
    main()
