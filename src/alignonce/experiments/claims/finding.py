"""A claim, and what the numbers of a study say about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["difference", "ratio", "rank correlation"]
Verdict = Literal["supported", "not supported", "inconclusive"]
SIGNS: dict[Verdict, str] = {"supported": "✓", "not supported": "✗", "inconclusive": "?"}
VERDICTS: tuple[Verdict, ...] = ("supported", "not supported", "inconclusive")


@dataclass(frozen=True)
class Claim:
    """A sentence that numbers can speak for or against."""

    id: str
    section: str
    sentence: str
    """Words in “ ” are of the paper's abstract (Cheon, Bae and Paik 2025, arXiv 2505.20892); the rest is
    ours, sharpened until it can be measured."""
    measured: str
    """What is measured, for a student."""
    statistic: str
    """Its name in a few words, such as `difference of test accuracy`."""
    threshold: float
    """In `unit`, as the estimate is."""
    unit: str
    """Such as `points`; "" for a number without one."""
    side: Literal["above", "below"] = "above"
    """Of the threshold, where the claim holds."""
    kind: Kind = "difference"
    baseline: str | None = None
    """The rule that each rule is compared with."""


@dataclass(frozen=True)
class Finding:
    """What one rule's runs in one place of the study say about one claim.

    `estimate`, the 95% interval `low` to `high`, and `per_seed` are in the claim's unit; a ratio's estimate
    is the geometric mean over seeds. The interval is NaN for fewer than two seeds, the estimate for none.
    """

    claim: str
    """The claim's id."""
    part: str
    cell: str
    """Of the part; `depth=2..30` where cells are compared."""
    rule: str
    """`soft` where random feedback and all cosines of soft alignment are taken together."""
    baseline: str | None
    estimate: float
    low: float
    high: float
    per_seed: Mapping[int, float]
    verdict: Verdict
    seeds_needed: int | None = None
    """How many seeds would decide, if estimate and spread stay: None if decided, or if no number would do."""
    note: str = ""
