"""From how many steps on it pays to compile a network that `alignonce train` trains.

    python benchmarks/compiling.py [--work mlp gpt] [--rounds 20]

Each network learns its real data with the training's own engine, task and optimiser, so that a step is what
it is in `alignonce train`. Printed are the time of an eager step, the ratio of a compiled one (interleaved),
the seconds that compiling takes with an empty cache (cold) and with that of an earlier process (warm), both
for whole batches and for the last one of an epoch, and the steps that pay for it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import torch

from alignonce import evolve
from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.data.source import DataSource
from alignonce.experiments.tasks import load_task
from alignonce.experiments.training.engine import Engine
from alignonce.experiments.training.loop import build_optimizer
from timing import interleave, machine

WORK: dict[str, RunConfig] = {
    "mlp 10x256, batch 128 (default)": RunConfig(),
    "mlp 5x1024, batch 128": RunConfig(depth=5, width=1024),
    "mlp 2x32, digits, batch 32": RunConfig(data="digits", depth=2, width=32, batch_size=32),
    "mlp 2x64, diabetes, batch 32 (tabular)": RunConfig(task="tabular"),
    "resnet, 24 channels, batch 128": RunConfig(model="resnet"),
    "resnet, 8 channels, batch 32": RunConfig(model="resnet", width=8, batch_size=32),
    "gpt 4x128, context 128, batch 8 (lm)": RunConfig(task="lm"),
}


def training_step(config: RunConfig, compiled: bool) -> Callable[[int], None]:
    """A function that makes one training step with so many examples."""
    engine = Engine(config.model_copy(update={"compile": compiled}))
    task = load_task(config, DataSource(hub=False))
    model = task.build_model(config)
    forward = engine.set_up(model)
    task = task.to(engine.device)
    optimizer = engine.set_up_optimizer(build_optimizer(model, config))
    steps = 0

    def step(examples: int) -> None:
        nonlocal steps
        optimizer.zero_grad()
        for part in engine.parts(torch.arange(examples)):
            loss, _ = task.loss(forward, task.batch(part.examples))
            engine.backward(forward, loss, part)
        optimizer.step()
        steps += 1
        evolve(model, steps)

    return step


def measure(work: str, rounds: int) -> None:
    """Compile a network in this process and print its times as JSON."""
    config = WORK[work]
    size = config.batch_size
    last = load_task(config, DataSource(hub=False)).train_size % size or size
    eager, compiled = (training_step(config, compiled) for compiled in (False, True))

    def seconds(step: Callable[[int], None]) -> float:
        start = time.perf_counter()
        for examples in (size, size, last, last, size):
            step(examples)
        return time.perf_counter() - start

    seconds(eager)
    result = {"compiling": seconds(compiled) - seconds(compiled)}
    if rounds:
        steps = {"eager": lambda: eager(size), "compiled": lambda: compiled(size)}
        first, second = interleave(steps, rounds)
        result |= {
            "eager": first.milliseconds,
            "ratio": second.median,
            "low": second.low,
            "high": second.high,
        }
    print(json.dumps(result))


def measured(work: str, rounds: int, cache: str) -> dict[str, float]:
    """Measure in a process of its own, with this folder as the compiler's cache."""
    command = [sys.executable, __file__, "--inside", work, "--rounds", str(rounds)]
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", nargs="+", default=[""], help="networks whose names contain one of these")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--inside", choices=WORK, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        measure(args.inside, args.rounds)
        return
    print(f"{machine()}\n")
    print(
        "| network | eager step | compiled over eager | compiling, cold | warm | steps to pay, cold | warm |"
    )
    print("|---|---|---|---|---|---|---|")
    for work in WORK:
        if not any(part in work for part in args.work):
            continue
        with tempfile.TemporaryDirectory() as cache:
            cold, warm = measured(work, 0, cache), measured(work, args.rounds, cache)
        gain = warm["eager"] / 1e3 * (1 - warm["ratio"])
        pays = [f"{one['compiling'] / gain:,.0f}" if gain > 0 else "never" for one in (cold, warm)]
        cells = [
            work,
            f"{warm['eager']:.2f} ms",
            f"{warm['ratio']:.3f} ({warm['low']:.3f} to {warm['high']:.3f})",
            f"{cold['compiling']:.1f} s",
            f"{warm['compiling']:.1f} s",
            *pays,
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
