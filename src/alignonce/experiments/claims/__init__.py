"""The claims of the paper, put to the numbers of a study: supported, not supported, or inconclusive.

findings = evaluate(facts)
"""

from alignonce.experiments.claims.evaluation import CLAIMS, evaluate
from alignonce.experiments.claims.questions import SIGNS, VERDICTS, Claim, Finding, Verdict

__all__ = ["CLAIMS", "SIGNS", "VERDICTS", "Claim", "Finding", "Verdict", "evaluate"]
