"""What a figure is about, in words: the network, the data, the seeds, the images."""

from __future__ import annotations

from collections.abc import Sequence

from alignonce.experiments.facts import Facts
from alignonce.experiments.runs.folder import RunRecord


def describe_network(run: RunRecord) -> str:
    """Name the data and the network of a run.

    Args:
        run: the run.

    Returns:
        Such as `fashion-mnist, mlp of 10 hidden layers of 256`.
    """
    return f"{run.summary.data.name}, {run.config.model} of {run.config.size_words}"


def describe_seeds(runs: Sequence[RunRecord], shown: str = "means") -> str:
    """Say how many seeds are shown.

    Args:
        runs: those in the figure.
        shown: what of several seeds is drawn.

    Returns:
        Such as `seed 0`, or `means over 3 seeds`.
    """
    seeds = sorted({run.config.seed for run in runs})
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"{shown} over {len(seeds)} seeds"


def images_text(facts: Facts, kind: str = "") -> str:
    """Say on how many images facts were measured.

    Args:
        facts: the facts.
        kind: such as `training`.

    Returns:
        Such as `512 training images`.
    """
    numbers = sorted({fact.images for fact in facts if fact.images})
    count = " or ".join(f"{n:,}" for n in numbers)
    return f"{count} {kind} images".replace("  ", " ")
