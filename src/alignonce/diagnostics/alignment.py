"""How well feedback weights are aligned with the forward weights of this moment."""

from torch import nn

from alignonce.conversion import feedback_weights
from alignonce.summary import cosine_similarity

__all__ = ["alignment"]


def alignment(model: nn.Module) -> dict[str, float]:
    """Cosine between each forward weight W and its feedback weight B as flat vectors.

    Args:
        model: a model with a learning rule; layers without feedback weights do not appear.

    Returns:
        Cosines in [-1, 1] by the weight's name, in the model's order; NaN where W or B is all zero. The
        angle in degrees is ``math.degrees(math.acos(cosine))``.
    """
    return {name: cosine_similarity(weight, feedback) for name, weight, feedback in feedback_weights(model)}
