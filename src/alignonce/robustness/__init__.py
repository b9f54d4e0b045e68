"""What the learnt model withstands: corruptions, imperfect weights, adversarial attacks.

Corruptions need kornia, and attacks other than Square the Adversarial Robustness Toolbox:
``pip install alignonce[robustness]``.
"""

from alignonce.robustness.attacks import ATTACKS, NORMS, AttackResult, attack, perturbation_norms
from alignonce.robustness.corruption_accuracy import (
    CorruptedImages,
    CorruptionReport,
    CorruptionRow,
    RelativeRobustness,
    corrupted_set_accuracy,
    corruption_accuracy,
)
from alignonce.robustness.corruption_sets import cifar_c, mnist_c
from alignonce.robustness.corruptions import corrupt
from alignonce.robustness.evaluation import AdversarialReport, adversarial_evaluation
from alignonce.robustness.masking import RobustAccuracy, masking_findings
from alignonce.robustness.routes import ROUTES, input_gradients
from alignonce.robustness.severities import CORRUPTIONS, SEVERITIES, SEVERITY_LEVELS
from alignonce.robustness.weight_accuracy import WeightAccuracy, weight_accuracy
from alignonce.robustness.weights import (
    DeviceMismatch,
    Quantisation,
    WeightNoise,
    WeightPerturbation,
    perturbed_weights,
)

__all__ = [
    "ATTACKS",
    "CORRUPTIONS",
    "NORMS",
    "ROUTES",
    "SEVERITIES",
    "SEVERITY_LEVELS",
    "AdversarialReport",
    "AttackResult",
    "CorruptedImages",
    "CorruptionReport",
    "CorruptionRow",
    "DeviceMismatch",
    "Quantisation",
    "RelativeRobustness",
    "RobustAccuracy",
    "WeightAccuracy",
    "WeightNoise",
    "WeightPerturbation",
    "adversarial_evaluation",
    "attack",
    "cifar_c",
    "corrupt",
    "corrupted_set_accuracy",
    "corruption_accuracy",
    "input_gradients",
    "masking_findings",
    "mnist_c",
    "perturbation_norms",
    "perturbed_weights",
    "weight_accuracy",
]
