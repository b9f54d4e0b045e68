"""The claims of the paper, put to the numbers of a study: supported, not supported, or inconclusive.

findings = evaluate(evidence)
print(findings_markdown(findings))
"""

from alignonce.experiments.claims.catalogue import CLAIMS
from alignonce.experiments.claims.evaluation import evaluate
from alignonce.experiments.claims.questions import SIGNS, VERDICTS, Claim, Finding, Verdict
from alignonce.experiments.claims.tables import findings_markdown, findings_table
from alignonce.experiments.config.rule_specs import ALL_COSINES

__all__ = [
    "ALL_COSINES",
    "CLAIMS",
    "SIGNS",
    "VERDICTS",
    "Claim",
    "Finding",
    "Verdict",
    "evaluate",
    "findings_markdown",
    "findings_table",
]
