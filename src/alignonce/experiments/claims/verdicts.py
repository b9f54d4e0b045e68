"""From the values of seeds to a verdict."""

from __future__ import annotations

import math

import numpy as np

from alignonce.experiments.claims.bootstrap import bootstrap_interval, half_width
from alignonce.experiments.claims.numbers import Place
from alignonce.experiments.claims.questions import Claim, Finding, Verdict
from alignonce.experiments.claims.samples import Samples

MOST_SEEDS = 1000
"""More than these are not called an answer to how many would decide."""


def judge(
    claim: Claim,
    place: Place,
    rule: str,
    samples: Samples,
    resamples: int,
    generator: np.random.Generator,
) -> Finding:
    """Judge a claim: supported if its whole interval is on the claimed side of the threshold.

    Args:
        claim: the claim.
        place: where in the study.
        rule: the learning rule.
        samples: a value for each seed; logarithms if the claim is about a ratio.
        resamples: of the bootstrap.
        generator: of its random numbers.

    Returns:
        The finding.
    """
    ratio = claim.kind == "ratio"
    threshold = math.log(claim.threshold) if ratio else claim.threshold
    values = np.array(list(samples.values.values()))
    estimate = float(values.mean()) if len(values) else math.nan
    low, high = bootstrap_interval(values.tolist(), samples.noise, resamples, generator)
    if claim.kind == "rank correlation":
        low, high = max(low, -1.0), min(high, 1.0)
    verdict = verdict_of(low, high, threshold, claim.side == "above")
    needed, more = None, ""
    if verdict == "inconclusive":
        needed, more = _to_decide(values.tolist(), threshold, samples.noise is not None)

    def printed(value: float) -> float:
        # Few seeds far apart: an upper end of infinity is the honest one.
        with np.errstate(over="ignore"):
            return float(np.exp(value)) if ratio else value

    return Finding(
        claim.id, place.part, place.cell, rule, claim.baseline,
        printed(estimate), printed(low), printed(high),
        {seed: float(printed(value)) for seed, value in samples.values.items()}, verdict, needed,
        "; ".join(filter(None, (more, *samples.notes))),
    )  # fmt: skip


def verdict_of(low: float, high: float, threshold: float, above: bool) -> Verdict:
    """Read a verdict off an interval.

    Args:
        low: its lower end; NaN if there is none.
        high: its upper end.
        threshold: of the claim.
        above: whether the claim holds above the threshold, rather than below.

    Returns:
        The verdict; an end on the threshold decides nothing.
    """
    if low > threshold:
        return "supported" if above else "not supported"
    if high < threshold:
        return "not supported" if above else "supported"
    return "inconclusive"


def seeds_to_decide(values: list[float], threshold: float, most: int = MOST_SEEDS) -> int | None:
    """Say how many seeds would put the interval on one side of the threshold, if mean and spread stay.

    Args:
        values: of two seeds or more.
        threshold: of the claim.
        most: to look at.

    Returns:
        The smallest such number, by Student's t; None if `most` would not do.
    """
    distance, deviation = abs(float(np.mean(values)) - threshold), float(np.std(values, ddof=1))
    return next((n for n in range(2, most + 1) if half_width(deviation, n) < distance), None)


def _to_decide(values: list[float], threshold: float, images: bool) -> tuple[int | None, str]:
    if not values:
        return None, "no seed has all that it takes"
    if len(values) == 1:
        return None, "one seed decides nothing"
    if np.mean(values) == threshold:
        return None, "the estimate is the threshold itself, which no number of seeds decides"
    needed = seeds_to_decide(values, threshold)
    if needed is None:
        return None, f"more than {MOST_SEEDS} seeds would be needed"
    if needed <= len(values) and images:
        return None, "what leaves it open is the number of test images, not of seeds"
    return max(needed, len(values) + 1), ""
