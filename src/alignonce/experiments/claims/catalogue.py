"""All claims, in the order in which they are told."""

from __future__ import annotations

from alignonce.experiments.claims.claims_accuracy import ACCURACY_QUESTIONS, LANGUAGE_QUESTIONS
from alignonce.experiments.claims.claims_alignment import ALIGNMENT_QUESTIONS
from alignonce.experiments.claims.claims_depth import DEPTH_QUESTIONS
from alignonce.experiments.claims.claims_robustness import ROBUSTNESS_QUESTIONS
from alignonce.experiments.claims.claims_solutions import SOLUTION_QUESTIONS
from alignonce.experiments.claims.questions import Claim, Question

QUESTIONS: tuple[Question, ...] = (
    *ACCURACY_QUESTIONS, *DEPTH_QUESTIONS, *ALIGNMENT_QUESTIONS, *SOLUTION_QUESTIONS, *ROBUSTNESS_QUESTIONS,
    *LANGUAGE_QUESTIONS,
)  # fmt: skip
CLAIMS: tuple[Claim, ...] = tuple(question.claim for question in QUESTIONS)
