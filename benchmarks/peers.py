"""Time of a training step by feedback alignment here and in biotorch 0.0.16, on the same networks.

    python benchmarks/peers.py [--rounds 20] [--folder peers] [--work CNN] [--compile]

biotorch is installed into a folder of its own, without its dependencies (its layers need only PyTorch), so
that the environment stays as it is and both run on the same PyTorch, in one process, interleaved. First of
all, both must compute the same gradients from the same weights and feedback weights. Printed are the ratios
to biotorch's time: below 1 is faster.
"""

import argparse
import contextlib
import copy
import io
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from alignonce import LowRank, RandomFeedback, set_learning_rule
from alignonce.experiments.models import ResNet18, SmallResNet
from step_time import WORK, cnn
from timing import interleave, machine

PEER = "biotorch==0.0.16"
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **WORK,
    "CNN, channels last": (cnn, (64, 3, 32, 32)),
    "small residual CNN, 8 channels, 1x28x28, batch 64": (
        lambda: SmallResNet((1, 28, 28), 10, 1, 8), (64, 1, 28, 28)
    ),
    "small residual CNN, 24 channels, 1x28x28, batch 128": (
        lambda: SmallResNet((1, 28, 28), 10, 1, 24), (128, 1, 28, 28)
    ),
    "ResNet-18, 32 channels, 3x32x32, batch 32": (
        lambda: ResNet18((3, 32, 32), 10, 32), (32, 3, 32, 32)
    ),
}  # fmt: skip


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


def compressed(model: nn.Module) -> nn.Module:
    """The same with a random B of low rank, which biotorch has nothing like."""
    set_learning_rule(model, RandomFeedback(), format=LowRank(1 / 8, dtype=torch.bfloat16))
    return model


VARIANTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "biotorch": biotorch,
    "alignonce": alignonce,
    "alignonce, rank 1/8, bfloat16": compressed,
    "backpropagation": lambda model: model,
}


def check_same_work(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    """Raise an error unless both compute the same gradients (float64) from the same W and B."""
    torch.manual_seed(0)
    model = build().double()
    x, y = torch.randn(shape, dtype=torch.float64), torch.randint(0, 10, shape[:1])
    peer, ours = biotorch(copy.deepcopy(model)), alignonce(copy.deepcopy(model))
    peer.double()  # its layers are new ones, of float32
    for theirs, own in zip(next(peer.children()).modules(), ours.modules(), strict=True):
        if isinstance(own, nn.Linear | nn.Conv2d):
            own.get_buffer("feedback").copy_(theirs.get_parameter("weight_backward"))
    gradients = [
        torch.autograd.grad(F.cross_entropy(m(x), y), [p for p in m.parameters() if p.requires_grad])
        for m in (peer, ours)
    ]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-6, atol=1e-12)


def training_step(
    build: Callable[[], nn.Module],
    shape: tuple[int, ...],
    order: torch.memory_format,
    prepare: Callable[[nn.Module], nn.Module],
    compiled: bool,
) -> Callable[[], None]:
    """A closure that makes one training step: forward, loss, backward, Adam."""
    torch.manual_seed(0)
    model = prepare(build()).to(memory_format=order)  # type: ignore[call-overload]
    x, y = torch.randn(shape).contiguous(memory_format=order), torch.randint(0, 10, shape[:1])
    # biotorch's feedback weights are parameters that never get a gradient: the optimiser passes over them.
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    forward = torch.compile(model, dynamic=False) if compiled else model

    def step() -> None:
        loss = F.cross_entropy(forward(x), y)
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
    parser.add_argument("--work", nargs="+", default=[""], help="networks whose names contain one of these")
    parser.add_argument("--compile", action="store_true", help="compiled networks, all of them")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        install(args.folder or Path(temporary))
        how = ", compiled" if args.compile else ""
        print(f"{PEER} on the same PyTorch{how}; {machine()}\n")
        print("| work | " + " | ".join(VARIANTS) + " |")
        print("|---" * (1 + len(VARIANTS)) + "|")
        for work, (build, shape) in NETWORKS.items():
            if not any(part in work for part in args.work):
                continue
            check_same_work(build, shape)
            order = torch.channels_last if "channels last" in work else torch.contiguous_format
            torch.compiler.reset()
            steps = {
                name: training_step(build, shape, order, prepare, args.compile)
                for name, prepare in VARIANTS.items()
            }
            reference, *ratios = interleave(steps, rounds=args.rounds, warmup=3)
            cells = [work, f"{reference.milliseconds:.1f} ms", *map(str, ratios)]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
