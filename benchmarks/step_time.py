"""Time of a whole training step under each learning rule, over backpropagation's.

    python benchmarks/step_time.py [--rounds 40] [--device cpu] [--rules fa soft] [--eager-only]

A step is forward, loss, backward, optimiser and, for rules that need it, evolve. All rules run in one
process, interleaved; the ratio is taken round by round, and its median and quartiles are printed as a table
for benchmarks/README.md.
"""

import argparse
import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignonce import (
    Backpropagation,
    DirectFeedback,
    KolenPollack,
    LearningRule,
    PeriodicAlignment,
    RandomFeedback,
    SignSymmetry,
    SoftAlignment,
    WeightMirror,
    evolve,
    set_learning_rule,
)
from timing import interleave, machine

RULES: dict[str, LearningRule] = {
    "bp": Backpropagation(),
    "fa": RandomFeedback(),
    "soft": SoftAlignment(0.5),
    "sign": SignSymmetry(once=True),
    "usf": SignSymmetry("uniform"),
    "frsf": SignSymmetry("fixed"),
    "brsf": SignSymmetry("batch"),
    "periodic": PeriodicAlignment(every=100),
    "kp": KolenPollack(),
    "mirror": WeightMirror(),
    "dfa": DirectFeedback(),
}


def mlp(inputs: int, width: int, depth: int, outputs: int = 10) -> nn.Sequential:
    """A ReLU network of ``depth`` hidden layers."""
    sizes = [inputs, *[width] * depth]
    hidden = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, outputs))


def cnn() -> nn.Sequential:
    """Six convolutions with BatchNorm on 3x32x32 images."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in [
        (3, 32, 1),
        (32, 32, 1),
        (32, 64, 2),
        (64, 64, 1),
        (64, 128, 2),
        (128, 128, 1),
    ]:
        layers += [
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


WORK: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP 784-1024x4-10, batch 128": (lambda: mlp(784, 1024, 4), (128, 784)),
    "CNN 3x32x32, batch 64": (cnn, (64, 3, 32, 32)),
    "MLP 10 layers of 256, batch 128": (lambda: mlp(256, 256, 9), (128, 256)),
}


def training_step(
    build: Callable[[], nn.Module], shape: tuple[int, ...], rule: LearningRule, compiled: bool, device: str
) -> Callable[[], None]:
    """A closure that makes one training step of a fresh network under a rule."""
    torch.manual_seed(0)
    model = build().to(device)
    x, y = torch.randn(shape, device=device), torch.randint(0, 10, shape[:1], device=device)
    set_learning_rule(model, rule, inputs=x if isinstance(rule, DirectFeedback) else None)
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    number = itertools.count(1)

    def step() -> None:
        loss: Tensor = F.cross_entropy(forward(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        evolve(model, next(number))

    return step


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40, help="timings of each rule (default 40)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rules", nargs="+", default=[r for r in RULES if r != "bp"], choices=list(RULES))
    parser.add_argument("--eager-only", action="store_true", help="leave torch.compile out")
    parser.add_argument("--work", default="", help="only the networks whose name holds this text")
    args = parser.parse_args()
    print(f"{machine()}; device {args.device}\n")
    print("| work | mode | backpropagation | " + " | ".join(args.rules) + " |")
    print("|---|---|---" + "|---" * len(args.rules) + "|")
    for name, (build, shape) in WORK.items():
        if args.work not in name:
            continue
        for compiled in (False,) if args.eager_only else (False, True):
            torch.compiler.reset()
            steps = {
                rule: training_step(build, shape, RULES[rule], compiled, args.device)
                for rule in ["bp", *args.rules]
            }
            reference, *ratios = interleave(steps, rounds=args.rounds)
            mode = "compiled" if compiled else "eager"
            cells = [name, mode, f"{reference.milliseconds:.2f} ms", *map(str, ratios)]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
