"""What a user chooses: how feedback weights begin, and how (if at all) they change."""

from alignonce.rules.base import Backpropagation, LearningRule
from alignonce.rules.direct import DirectFeedback
from alignonce.rules.evolving import EvolutionStep, EvolvingRule, PeriodicAlignment, SignSymmetry
from alignonce.rules.fixed import FixedScale, RandomFeedback, SoftAlignment
from alignonce.rules.learnt import KolenPollack, WeightMirror

__all__ = [
    "Backpropagation",
    "DirectFeedback",
    "EvolutionStep",
    "EvolvingRule",
    "FixedScale",
    "KolenPollack",
    "LearningRule",
    "PeriodicAlignment",
    "RandomFeedback",
    "SignSymmetry",
    "SoftAlignment",
    "WeightMirror",
]
