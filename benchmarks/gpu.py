"""All that is to be measured of a training step on a GPU, in one call of a few minutes.

    python benchmarks/gpu.py            # bfloat16, on a GPU
    python benchmarks/gpu.py --small    # the same on any machine, at a size that takes less than a minute

Compiled steps (forward, loss, backward, fused Adam) over backpropagation's compiled step, interleaved, with
quartiles: an MLP of width 8192 and batch 8192, and a stack of transformer blocks of the size of ViT-Base
(12 blocks of 768, 197 tokens), with dense B and with compressed ones. Then 24 small runs one by one over the
same runs in one program (together.py has more of these).
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import together
from alignonce import FP8, Dense, FeedbackFormat, Int8, LowRank, SoftAlignment, set_learning_rule
from step_time import mlp
from timing import interleave, machine

FORMATS: dict[str, FeedbackFormat] = {
    "Dense()": Dense(),
    "LowRank(1/8)": LowRank(1 / 8),
    "LowRank(1/16)": LowRank(1 / 16),
    "Int8()": Int8(),
    "FP8()": FP8(),
}


class Size(NamedTuple):
    """How large the networks are, and how often each is timed."""

    width: int
    batch: int
    blocks: int
    channels: int
    heads: int
    images: int
    tokens: int
    rounds: int
    runs: int
    """Small runs that train together."""
    epochs: int
    """Of each of these."""


FULL = Size(8192, 8192, 12, 768, 12, 64, 197, rounds=10, runs=24, epochs=6)
SMALL = Size(64, 32, 1, 32, 2, 4, 9, rounds=3, runs=4, epochs=1)


class Block(nn.Module):
    """A transformer block as in ViT: attention and an MLP, each after a LayerNorm and around a shortcut."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, tokens, channels) to the same shape."""
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, dim=2)
        )
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def training_step(
    build: Callable[[], nn.Module], x: Tensor, format: FeedbackFormat | None, backend: str
) -> Callable[[], None]:
    """A closure that makes one compiled training step; without a format, by backpropagation."""
    torch.manual_seed(0)
    with torch.device(x.device):
        model = build()
    if format is not None:
        set_learning_rule(model, SoftAlignment(1.0), format=format)
    # Masters in float32 would cost both alike and hide what is compared.
    model = model.to(x.dtype)
    forward = torch.compile(model, backend=backend)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        loss = forward(x).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def measure(name: str, build: Callable[[], nn.Module], x: Tensor, rounds: int, backend: str) -> None:
    """Print the rows of one network."""
    reference = training_step(build, x, None, backend)
    for label, format in FORMATS.items():  # one pair at a time: all at once would not fit the memory
        steps = {"backpropagation": reference, label: training_step(build, x, format, backend)}
        first, ratio = interleave(steps, rounds=rounds, warmup=2)
        print(f"| {name} | {label} | {first.milliseconds:.2f} ms | {ratio} |", flush=True)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="small networks, on any machine")
    parser.add_argument("--backend", default="inductor", help="of torch.compile (default inductor)")
    args = parser.parse_args()
    if not args.small and not torch.cuda.is_available():
        parser.error("no GPU: use --small to try the script at a small size")
    size = SMALL if args.small else FULL
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = {"device": device, "dtype": torch.bfloat16}
    print(f"{machine()}; {size}\n")
    print("| work | format | backpropagation | over backpropagation |\n|---|---|---|---|", flush=True)
    x = torch.randn(size.batch, size.width, **settings)
    measure("MLP", lambda: mlp(size.width, size.width, 3), x, size.rounds, args.backend)
    torch.compiler.reset()
    x = torch.randn(size.images, size.tokens, size.channels, **settings)
    measure(
        "ViT blocks",
        lambda: nn.Sequential(*[Block(size.channels, size.heads) for _ in range(size.blocks)]),
        x, size.rounds, args.backend,
    )  # fmt: skip
    print()
    together.measure(size.runs, size.epochs, 3, device, ["feedback"], "digits, MLP 2x32")


if __name__ == "__main__":
    main()
