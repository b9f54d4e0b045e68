"""Time several variants of the same work in one process, interleaved, as ratios to the first of them."""

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Ratio:
    """Time of a variant over time of the first variant in the same round."""

    name: str
    milliseconds: float
    """Median time of one call."""
    median: float
    low: float
    """Lower quartile of the ratios over the rounds; ``high`` is the upper one."""
    high: float
    fastest: float
    """Its shortest time over the first variant's shortest: what other load on the machine disturbs least."""

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def interleave(
    variants: dict[str, Callable[[], object]], rounds: int = 40, min_seconds: float = 0.02, warmup: int = 5
) -> list[Ratio]:
    """Call each variant in turn, round after round, so that a machine's drift meets all of them alike.

    Args:
        variants: what to time, by name; the first is the reference.
        rounds: how many times each is timed.
        min_seconds: each timing repeats the call until it lasts about this long.
        warmup: calls of each before the first timing (compilation, caches).
    """
    for call in variants.values():
        for _ in range(warmup):
            call()
    reference = next(iter(variants.values()))
    repeats = max(1, round(min_seconds / _seconds(reference, 3)))
    times: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for index in range(rounds):
        shift = index % len(names)  # so that no variant always follows the same one
        for name in names[shift:] + names[:shift]:
            times[name].append(_seconds(variants[name], repeats))
    base = times[names[0]]
    result = []
    for name in names:
        ratios = [t / b for t, b in zip(times[name], base, strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4)
        fastest = min(times[name]) / min(base)
        result.append(Ratio(name, 1e3 * statistics.median(times[name]), median, low, high, fastest))
    return result


def machine() -> str:
    """One line on the machine and the versions that a table was measured with."""
    if torch.cuda.is_available():
        processor = torch.cuda.get_device_name()
    else:
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.exists() else []
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        processor = f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads"
    return f"{processor}; torch {torch.__version__}, Python {platform.python_version()}, {platform.system()}"


def _seconds(call: Callable[[], object], repeats: int) -> float:
    _wait()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    _wait()
    return (time.perf_counter() - start) / repeats


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
