"""All claims, in the order of the report, and from the numbers of a study to its findings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from alignonce.experiments.claims.claims_accuracy import (
    ACCURACY_QUESTIONS,
    DEPTH_QUESTIONS,
    LANGUAGE_QUESTIONS,
)
from alignonce.experiments.claims.claims_alignment import ALIGNMENT_QUESTIONS
from alignonce.experiments.claims.claims_robustness import ROBUSTNESS_QUESTIONS
from alignonce.experiments.claims.claims_solutions import SOLUTION_QUESTIONS
from alignonce.experiments.claims.questions import Claim, Finding, Question
from alignonce.experiments.claims.verdicts import judge
from alignonce.experiments.config.seeds import derived_seed
from alignonce.experiments.facts import Facts

QUESTIONS: tuple[Question, ...] = (
    *ACCURACY_QUESTIONS, *DEPTH_QUESTIONS, *ALIGNMENT_QUESTIONS, *SOLUTION_QUESTIONS, *ROBUSTNESS_QUESTIONS,
    *LANGUAGE_QUESTIONS,
)  # fmt: skip
CLAIMS: tuple[Claim, ...] = tuple(question.claim for question in QUESTIONS)


def evaluate(
    facts: Facts,
    *,
    seed: int = 0,
    resamples: int = 2000,
    on_progress: Callable[[int, int], None] | None = None,
    questions: Sequence[Question] = QUESTIONS,
) -> list[Finding]:
    """Judge every claim for every rule, in every part and cell that has what it takes.

    A claim whose rules or measures are missing gives no finding. Each interval is of 95% for its own finding:
    among many, some miss by chance, and no correction is made.

    Args:
        facts: the numbers of a study.
        seed: of the bootstrap. A finding's interval depends on it and on its own numbers only.
        resamples: of the bootstrap.
        on_progress: called with the number of claims done and of all.
        questions: what to ask.

    Returns:
        The findings, in the order of the claims.

    Raises:
        ValueError: `resamples` is less than 100.
    """
    if resamples < 100:
        raise ValueError(f"resamples must be at least 100, got {resamples}")
    findings = []
    for done, question in enumerate(questions, start=1):
        for answer in question.answers(facts):
            purpose = "|".join((question.claim.id, *answer.place, answer.rule))
            generator = np.random.default_rng(derived_seed(seed, purpose))
            findings.append(
                judge(question.claim, answer.place, answer.rule, answer.samples, resamples, generator)
            )
        if on_progress is not None:
            on_progress(done, len(questions))
    return findings
