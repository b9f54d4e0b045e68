"""Train deep networks without weight transport, and measure what that does."""

from importlib.metadata import version

from alignonce.audit import TransportReport, audit_weight_transport
from alignonce.conversion import set_learning_rule
from alignonce.diagnostics.alignment import alignment
from alignonce.direct import DirectFeedback
from alignonce.equivalents import register_equivalent
from alignonce.evolution import evolve
from alignonce.evolving_rules import KolenPollack, PeriodicAlignment, SignSymmetry, WeightMirror
from alignonce.formats import FP8, Dense, FeedbackFormat, Int4, Int8, LowRank, SemiStructured, Sign, Sparse
from alignonce.model_access import exact_gradients, feedback_weights
from alignonce.noise_pretraining import pretrain_on_noise
from alignonce.rules import Backpropagation, LearningRule, RandomFeedback, SoftAlignment
from alignonce.summary import RuleSummary

__version__ = version("alignonce")

__all__ = [
    "FP8",
    "Backpropagation",
    "Dense",
    "DirectFeedback",
    "FeedbackFormat",
    "Int4",
    "Int8",
    "KolenPollack",
    "LearningRule",
    "LowRank",
    "PeriodicAlignment",
    "RandomFeedback",
    "RuleSummary",
    "SemiStructured",
    "Sign",
    "SignSymmetry",
    "SoftAlignment",
    "Sparse",
    "TransportReport",
    "WeightMirror",
    "alignment",
    "audit_weight_transport",
    "evolve",
    "exact_gradients",
    "feedback_weights",
    "pretrain_on_noise",
    "register_equivalent",
    "set_learning_rule",
]
