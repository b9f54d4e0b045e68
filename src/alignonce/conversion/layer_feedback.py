"""Giving one layer its feedback weights, which both a conversion and the automatic choice of formats do."""

from collections.abc import Mapping

from torch import Tensor, nn

from alignonce.formats import Dense, FeedbackFormat
from alignonce.formats.compressed import CompressedFeedback, HeldFeedback, as_matrix
from alignonce.layers import FeedbackLayer, feedback_class, forward_weight_names
from alignonce.rules.base import LearningRule
from alignonce.rules.fixed import SoftAlignment
from alignonce.summary import cosine_similarity

__all__ = ["align", "give_feedback"]


def give_feedback(layer: nn.Module, rule: LearningRule, feedback: Mapping[str, HeldFeedback]) -> None:
    """Make a layer carry errors back through feedback weights.

    Args:
        layer: of a known kind, plain or with feedback.
        rule: its learning rule.
        feedback: by the names of its forward weights.
    """
    if not isinstance(layer, FeedbackLayer):
        layer.__class__ = feedback_class(type(layer))
    assert isinstance(layer, FeedbackLayer)  # for the type checker
    layer.start_feedback(rule, feedback)


def align(layer: nn.Module, format: FeedbackFormat) -> float:
    """Give a layer feedback weights that are aligned with it as far as a format lets them.

    Args:
        layer: of a known kind, as are the layers in it (attention's output projection).
        format: of all its feedback weights.

    Returns:
        The mean cosine between forward and feedback weights.
    """
    rule, cosines = SoftAlignment(1.0), []
    for module in layer.modules():
        feedback: dict[str, HeldFeedback] = {}
        for name in forward_weight_names(module):
            weight = module.get_parameter(name)
            aligned = rule.feedback_for(weight, name, 0)
            stored_as = format.for_shape(as_matrix(tuple(weight.shape)))
            held = aligned if stored_as == Dense() else CompressedFeedback(stored_as, aligned)
            cosines.append(cosine_similarity(weight, held if isinstance(held, Tensor) else held.to_dense()))
            feedback[name] = held
        if feedback:
            give_feedback(module, rule, feedback)
    return sum(cosines) / len(cosines)
