"""Memory, communication and time of large transformers under FSDP2: what a plan needs to know.

    python benchmarks/scaling.py                       # measure on two processes, then plan
    python benchmarks/scaling.py --tokens 16384 --network-gbps 100

Measured, on this machine and by this code: the bytes that a process receives and keeps for each forward
weight, in each format. Not measured but assumed, and to be set by options: how fast the GPUs compute and
exchange bytes.
"""

import argparse
import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from alignonce import Backpropagation, SoftAlignment, set_learning_rule
from alignonce.distributed import shard
from alignonce.formats import Dense, FeedbackFormat, Int8, LowRank, Sign

WAYS: dict[str, FeedbackFormat | None] = {
    "backpropagation": None,
    "soft, dense in bfloat16": Dense(torch.bfloat16),
    "soft, int8": Int8(),
    "soft, rank 1/32": LowRank(fraction=1 / 32),
    "soft, sign": Sign(),
}
"""What is planned for, by name; None is backpropagation."""
LOW_RANK = 1 / 16
"""Operations of the error's product at rank 1/32 over backpropagation's, for square matrices; else 1."""

SIDE, LAYERS = 512, 6


@dataclass(frozen=True)
class PerWeight:
    """Bytes for each forward weight, scaled to very many processes."""

    gathered: float
    """Received in all-gathers in one step, times n / (n - 1)."""
    scattered: float
    """Received in reduce-scatters, likewise."""
    shared: float
    """Kept in feedback weights that are spread: a process holds 1 / n of it."""
    whole: float
    """Kept in feedback weights that each process holds whole."""


@dataclass(frozen=True)
class Transformer:
    """The shapes of a decoder: Llama 3.2 1B and Llama 3 70B."""

    name: str
    blocks: int
    width: int
    hidden: int
    keys: int
    vocabulary: int = 128256
    tied: bool = False

    @property
    def matrices(self) -> int:
        """Forward weights of the linear layers in blocks: they have feedback weights."""
        attention = 2 * self.width * self.width + 2 * self.width * self.keys
        return self.blocks * (attention + 3 * self.width * self.hidden)

    @property
    def others(self) -> int:
        """Embedding and head."""
        return self.vocabulary * self.width * (1 if self.tied else 2)


MODELS = (
    Transformer("1B", 16, 2048, 8192, 512, tied=True),
    Transformer("70B", 80, 8192, 28672, 1024),
)


class _Received(TorchDispatchMode):
    """Bytes that one of two processes receives of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.gathered = self.scattered = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = str(func)
        if "c10d" in name and ("gather" in name or "scatter" in name):
            tensors = [t for t in tree_leaves((args, output)) if isinstance(t, Tensor)]
            half = max(t.numel() * t.element_size() for t in tensors) // 2
            if "gather" in name:
                self.gathered += half
            else:
                self.scattered += half
        return output


def _model(format: FeedbackFormat | None) -> nn.Module:
    layers = [nn.Linear(SIDE, SIDE, bias=False) for _ in range(LAYERS)]
    model = nn.Sequential(*layers)
    if format is None:
        set_learning_rule(model, Backpropagation())
    else:
        set_learning_rule(model, SoftAlignment(0.5), format=format)
    return model


def _measure(rank: int, port: int, file: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    mesh = init_device_mesh("cpu", (2,))
    weights = SIDE * SIDE * LAYERS
    found = {}
    for name, format in WAYS.items():
        torch.manual_seed(0)
        model = shard(_model(format), mesh, torch.bfloat16)
        # The input wants its error too, as that of any layer but a network's first does.
        x = torch.randn(4, SIDE, requires_grad=True)
        for _ in range(2):
            received = _Received()
            with received, torch.autocast("cpu", torch.bfloat16):
                model(x).float().square().sum().backward()
        buffers = list(model.buffers())
        whole = sum(b.numel() * b.element_size() for b in buffers if not hasattr(b, "to_local"))
        shared = sum(b.numel() * b.element_size() for b in buffers if hasattr(b, "to_local"))
        sizes = 2 * received.gathered, 2 * received.scattered, shared, whole
        found[name] = [size / weights for size in sizes]
    if rank == 0:
        Path(file).write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


def measure() -> dict[str, PerWeight]:
    """Count bytes on two processes.

    Returns:
        By way, bytes for each forward weight.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "found.json")
        mp.spawn(_measure, (port, file), nprocs=2)
        found = json.loads(Path(file).read_text(encoding="utf-8"))
    return {name: PerWeight(*values) for name, values in found.items()}


@dataclass(frozen=True)
class Machines:
    """What is assumed."""

    tokens: int
    """In one step of one GPU."""
    teraflops: float
    """Of one GPU, in bfloat16, as reached in training."""
    node: int
    """GPUs in one machine."""
    inside_gbps: float
    """GB/s that a GPU receives of others in its machine."""
    network_gbps: float
    """GB/s that a GPU receives of other machines."""


# float32 weights, gradients, and the two averages of Adam.
_STATE_BYTES = 4 + 4 + 8


def plan(model: Transformer, gpus: int, way: str, per: PerWeight, on: Machines) -> dict[str, float]:
    """Work out one row.

    Args:
        model: the network.
        gpus: processes that it is spread over.
        way: which of `WAYS`.
        per: measured bytes.
        on: the machines.

    Returns:
        GB kept by a GPU (without activations) and received in a step; seconds of computing and of exchanging.
    """
    others_share = (gpus - 1) / gpus
    kept = (model.matrices + model.others) * _STATE_BYTES / gpus
    kept += model.matrices * (per.shared / gpus + per.whole)
    # Embedding and head are exact: gathered twice in float32, reduced in it once.
    received = others_share * (model.matrices * (per.gathered + per.scattered) + model.others * 12)
    products = 2 * on.tokens * (model.matrices * (2 + (LOW_RANK if "rank" in way else 1)) + model.others * 3)
    bandwidth = on.inside_gbps if gpus <= on.node else on.network_gbps
    return {
        "kept": kept / 1e9,
        "received": received / 1e9,
        "computing": products / (on.teraflops * 1e12),
        "exchanging": received / (bandwidth * 1e9),
    }


def table(per_way: dict[str, PerWeight], on: Machines) -> Iterator[str]:
    """Format the plan.

    Args:
        per_way: measured bytes.
        on: the machines.

    Yields:
        Lines of a table in Markdown.
    """
    columns = ("model", "GPUs", "rule, format", "GB kept", "GB received", "computing, s", "exchanging, s")
    yield f"| {' | '.join(columns)} | step, s | over bp |"
    yield "|---" * 9 + "|"
    for model in MODELS:
        for gpus in (8, 1024):
            reference = 0.0
            for way, per in per_way.items():
                row = plan(model, gpus, way, per, on)
                step = max(row["computing"], row["exchanging"])
                reference = reference or step
                numbers = f"{row['kept']:.1f} | {row['received']:.2f}"
                seconds = f"{row['computing']:.3f} | {row['exchanging']:.3f} | {step:.3f}"
                yield (
                    f"| {model.name} | {gpus:,} | {way} | {numbers} | {seconds} | {step / reference:.2f} |"
                )


def main() -> None:
    """Measure, plan, and print both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options: dict[str, tuple[Callable[[str], float], float]] = {
        "tokens": (int, 4096), "teraflops": (float, 400), "node": (int, 8),
        "inside_gbps": (float, 300), "network_gbps": (float, 40),
    }  # fmt: skip
    for name, (kind, default) in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default)
    on = Machines(**vars(parser.parse_args()))
    per_way = measure()
    print("Bytes for each forward weight, measured on two processes:\n")
    print("| rule, format | received in all-gathers | in reduce-scatters | B, spread | B, whole in each |")
    print("|---|---|---|---|---|")
    for way, per in per_way.items():
        print(f"| {way} | {per.gathered:.2f} | {per.scattered:.2f} | {per.shared:.3f} | {per.whole:.3f} |")
    print(f"\n{on}\n")
    print("\n".join(table(per_way, on)))


if __name__ == "__main__":
    main()
