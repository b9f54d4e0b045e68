"""How the learning rate changes over the steps of a run."""

import math
from typing import Literal

Schedule = Literal["constant", "cosine"]


def rate_factor(schedule: Schedule, step: int, total_steps: int, warmup_steps: int = 0) -> float:
    """Return what the learning rate is multiplied by at a step.

    During warm-up it rises linearly and reaches 1 with the last step of it; then it is 1, or falls along
    half a cosine, to just above 0 at the last step of the run.
    Source: Loshchilov and Hutter 2017, arXiv 1608.03983 (without restarts); Goyal et al. 2017,
    arXiv 1706.02677 (warm-up).

    Args:
        schedule: "constant" or "cosine".
        step: updates made before this one, 0 for the first.
        total_steps: updates in the whole run.
        warmup_steps: updates of warm-up among them.

    Returns:
        The factor, in (0, 1].

    Raises:
        ValueError: if the schedule is unknown, or the steps do not fit into the run.
    """
    if schedule not in ("constant", "cosine"):
        raise ValueError(f"schedule must be 'constant' or 'cosine', got {schedule!r}")
    if not 0 <= step < total_steps:
        raise ValueError(f"step must be in [0, {total_steps}), the steps of the run, got {step}")
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(f"warmup_steps must be in [0, {total_steps}), got {warmup_steps}")
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps))) / 2
