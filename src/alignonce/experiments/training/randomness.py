"""The global random state, which dropout and augmentation draw from, as part of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from alignonce.experiments.training.engine import Engine


@contextmanager
def own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Within the context, the global random state depends on the seed alone; after it, it is as before.

    Args:
        device: whose random state counts, besides the CPU's.
        seed: the seed.
    """
    generators = _generators(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for generator in generators.values():
            generator.manual_seed(seed)
        yield


def random_states(engine: Engine) -> dict[str, Tensor]:
    """Collect the global random states of all processes, which must all call this.

    Args:
        engine: what the run is computed with.

    Returns:
        The states by `KIND/PROCESS`.
    """
    states: dict[str, Tensor] = {}
    for kind, generator in _generators(engine.device).items():
        each = engine.from_each(generator.get_state())
        states |= {f"{kind}/{rank}": state.cpu() for rank, state in enumerate(each)}
    return states


def restore_random_states(engine: Engine, states: Mapping[str, Tensor]) -> None:
    """Go on with random states.

    Args:
        engine: what the run is computed with now.
        states: from `random_states`, perhaps of another number of processes.
    """
    for kind, generator in _generators(engine.device).items():
        # A process more than there were, or another device, keeps the state that its seed gives.
        state = states.get(f"{kind}/{engine.fabric.global_rank}")
        if state is not None:
            generator.set_state(state)


def _generators(device: torch.device) -> dict[str, torch.Generator]:
    generators = {"cpu": torch.default_generator}
    if device.type == "cuda":
        generators["cuda"] = torch.cuda.default_generators[device.index or 0]
    return generators
