"""How well feedback weights are aligned with the forward weights of this moment.

These are measures of the weights alone. What a layer learns lies just where its errors live, so that a high
weight cosine can go with a poor signal: see :func:`alignonce.diagnostics.functional_alignment`.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from alignonce.diagnostics._measuring import check_model
from alignonce.diagnostics.agreement import agreement
from alignonce.model_access import feedback_weights
from alignonce.summary import cosine_similarity

__all__ = ["WeightAlignment", "alignment", "weight_alignment"]


@dataclass(frozen=True)
class WeightAlignment:
    """How a feedback weight B stands to its forward weight W."""

    cosine: float
    """Cosine between W and B as flat vectors; NaN where one is all zero."""
    angle_deg: float
    """The same as an angle in degrees, in [0, 180]."""
    norm_ratio: float
    """‖B‖ / ‖W‖."""
    sign_agreement: float
    """Fraction of elements whose sign is the same in W and in B, in [0, 1]; random ones give 0.5."""


def alignment(model: nn.Module) -> dict[str, float]:
    """Cosine between each forward weight W and its feedback weight B as flat vectors.

    Args:
        model: a model with a learning rule; layers without feedback weights do not appear.

    Returns:
        Cosines in [-1, 1] by the weight's name, in the model's order; NaN where W or B is all zero. The
        angle in degrees is ``math.degrees(math.acos(cosine))``.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> _ = set_learning_rule(model, SoftAlignment(0.75))
        >>> {name: round(cosine, 3) for name, cosine in alignment(model).items()}
        {'0': 0.75, '2': 0.75}
    """
    return {name: cosine_similarity(weight, feedback) for name, weight, feedback in feedback_weights(model)}


def weight_alignment(model: nn.Module) -> dict[str, WeightAlignment]:
    """Compare each forward weight W with its feedback weight B: angle, norms and signs.

    Args:
        model: a model with a learning rule; layers without feedback weights do not appear.

    Returns:
        By the weight's name, in the model's order; empty for a model without a learning rule.

    Raises:
        TypeError: if ``model`` is no module.
    """
    return {
        name: _compare(weight, feedback) for name, weight, feedback in feedback_weights(check_model(model))
    }


def _compare(weight: Tensor, feedback: Tensor) -> WeightAlignment:
    of_b = agreement(feedback, weight)
    same_sign = float((weight.sign() == feedback.sign()).double().mean())
    return WeightAlignment(of_b.cosine, of_b.angle_deg, of_b.norm_ratio, same_sign)
