"""Time of a training step by feedback alignment here and in biotorch 0.0.16, on the same networks.

    python benchmarks/peers.py [--rounds 20] [--folder peers]

biotorch is installed into a folder of its own, without its dependencies (its layers need only PyTorch), so
that the environment stays as it is and both run on the same PyTorch, in one process, interleaved. Printed
are the ratios to biotorch's time: below 1 is faster.
"""

import argparse
import contextlib
import io
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from alignonce import RandomFeedback, set_learning_rule
from step_time import WORK
from timing import interleave, machine

PEER = "biotorch==0.0.16"


def install(folder: Path) -> None:
    """Put biotorch into a folder, unless it is there, and make it importable."""
    if not (folder / "biotorch").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run([*command, PEER], check=True)
    sys.path.append(str(folder))


def biotorch(model: nn.Module) -> nn.Module:
    """The model under biotorch's feedback alignment."""
    from biotorch.module.biomodule import BioModule

    with contextlib.redirect_stdout(io.StringIO()):  # it tells what it converts
        converted: nn.Module = BioModule(model, mode="fa")
    return converted


def alignonce(model: nn.Module) -> nn.Module:
    """The model under feedback alignment of this library."""
    set_learning_rule(model, RandomFeedback())
    return model


VARIANTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "biotorch": biotorch,
    "alignonce": alignonce,
    "backpropagation": lambda model: model,
}


def training_step(
    build: Callable[[], nn.Module], shape: tuple[int, ...], prepare: Callable[[nn.Module], nn.Module]
) -> Callable[[], None]:
    """A closure that makes one training step: forward, loss, backward, Adam."""
    torch.manual_seed(0)
    model = prepare(build())
    x, y = torch.randn(shape), torch.randint(0, 10, shape[:1])
    # biotorch's feedback weights are parameters that never get a gradient: the optimiser passes over them.
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    """Install, measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="keep biotorch here (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        install(args.folder or Path(temporary))
        print(f"{PEER} on the same PyTorch; {machine()}\n")
        print("| work | " + " | ".join(VARIANTS) + " |")
        print("|---" * (1 + len(VARIANTS)) + "|")
        for work, (build, shape) in WORK.items():
            steps = {name: training_step(build, shape, prepare) for name, prepare in VARIANTS.items()}
            reference, *ratios = interleave(steps, rounds=args.rounds, warmup=3)
            cells = [work, f"{reference.milliseconds:.1f} ms", *map(str, ratios)]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
