"""Train deep networks without weight transport, and measure what that does."""

import importlib
from typing import TYPE_CHECKING, Any

from alignonce.audit.audit import TransportReport, audit_weight_transport
from alignonce.checkpoints import load_feedback, plain_state_dict, save_feedback
from alignonce.conversion.convert import set_learning_rule
from alignonce.evolution import evolve, evolve_after
from alignonce.formats import FP8, Dense, FeedbackFormat, Int4, Int8, LowRank, SemiStructured, Sign, Sparse
from alignonce.layers.equivalents import register_equivalent
from alignonce.model_access import exact_gradients, feedback_weights
from alignonce.noise_pretraining import pretrain_on_noise
from alignonce.rules.base import Backpropagation, LearningRule
from alignonce.rules.direct import DirectFeedback
from alignonce.rules.evolving import PeriodicAlignment, SignSymmetry
from alignonce.rules.fixed import RandomFeedback, SoftAlignment
from alignonce.rules.learnt import KolenPollack, WeightMirror
from alignonce.summary import RuleSummary

if TYPE_CHECKING:
    from alignonce.diagnostics.alignment import alignment

__version__ = "0.1.0"

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
    "evolve_after",
    "exact_gradients",
    "feedback_weights",
    "load_feedback",
    "plain_state_dict",
    "pretrain_on_noise",
    "register_equivalent",
    "save_feedback",
    "set_learning_rule",
]


def __getattr__(name: str) -> Any:
    # Diagnostics are a third of this library's import time, and a program that only trains needs none.
    if name in ("alignment", "diagnostics"):
        diagnostics = importlib.import_module("alignonce.diagnostics")
        return diagnostics if name == "diagnostics" else diagnostics.alignment
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
