"""Signs that an attack failed for the attacker's reasons, not for the model's strength, put in words.

Feedback weights blind whoever attacks through them, so a model can look robust that is not: gradient
masking. The checks are the usual ones against it.

Source: Athalye, Carlini & Wagner 2018, arXiv 1802.00420, section 3.1; Carlini et al. 2019, arXiv 1902.06705.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["RobustAccuracy", "masking_findings"]


@dataclass(frozen=True)
class RobustAccuracy:
    """Accuracy in [0, 1] that an attack leaves."""

    attack: str
    norm: str
    eps: float
    """Radius of the ball, in pixel values."""
    route: str
    """``exact``, ``feedback``, ``transfer`` (crafted on another model) or ``black box`` (no gradients)."""
    accuracy: float


def masking_findings(
    rows: Sequence[RobustAccuracy],
    *,
    unbounded_accuracy: float,
    zero_gradient_share: float,
    margin: float = 0.05,
) -> tuple[str, ...]:
    """Look for gradient masking in the results of attacks.

    Args:
        rows: results on one model and the same images, for one norm.
        unbounded_accuracy: accuracy left by an attack by the exact route whose ball holds every image.
        zero_gradient_share: share of images whose exact gradient is zero in every pixel.
        margin: accuracies that differ by less say nothing, as chance differences in few images.

    Returns:
        A sentence for each finding; none if nothing looks masked.
    """
    return tuple(
        _findings({(r.route, r.attack, r.eps): r.accuracy for r in rows}, unbounded_accuracy,
                  zero_gradient_share, margin)
    )  # fmt: skip


def _findings(
    accuracy: dict[tuple[str, str, float], float], unbounded: float, zero_share: float, margin: float
) -> Iterator[str]:
    exact = {(attack, eps): value for (route, attack, eps), value in accuracy.items() if route == "exact"}
    gaps = [
        (accuracy["feedback", *key] - value, *key)
        for key, value in exact.items()
        if ("feedback", *key) in accuracy
    ]
    gap, attack, eps = max(gaps, default=(0.0, "", 0.0))
    if gap > margin:
        yield (
            f"{attack} at eps {eps:.4g} leaves {accuracy['feedback', attack, eps]:.2f} by the feedback route "
            f"and {exact[attack, eps]:.2f} by the exact one: the feedback weights blind the attacker, they "
            "do not make the model robust. Report the exact numbers."
        )
    for (route, attack, eps), value in accuracy.items():
        white_box = [v for (_, e), v in exact.items() if e == eps]
        if route in ("transfer", "black box") and white_box and value < min(white_box) - margin:
            how = "without gradients" if route == "black box" else "crafted on another model"
            yield (
                f"{attack} at eps {eps:.4g}, {how}, leaves {value:.2f}, less than the best attack by the "
                f"exact route ({min(white_box):.2f}): the gradients mislead, or that attack is too weak."
            )
    for (attack, eps), value in exact.items():
        single = exact.get(("fgsm", eps))
        if attack != "fgsm" and single is not None and value > single + margin:
            yield (
                f"{attack} at eps {eps:.4g} leaves {value:.2f}, more than a single step of FGSM "
                f"({single:.2f}): the gradients mislead, or the attack needs more steps."
            )
        larger = [(e, v) for (a, e), v in exact.items() if a == attack and e > eps and v > value + margin]
        for other, more in larger:
            yield (
                f"{attack} leaves {more:.2f} at eps {other:.4g}, more than at eps {eps:.4g} ({value:.2f}): a "
                "larger ball holds the smaller one, so the attack fails to search it."
            )
    if unbounded > margin:
        yield (
            f"PGD by the exact route leaves {unbounded:.2f} even when every image is allowed: no model can "
            "withstand that, so the gradients are of no use and all numbers by them are too high."
        )
    if zero_share > 0:
        yield (
            f"{zero_share:.1%} of the images have an exact gradient of zero in every pixel (saturated logits "
            "or dead units): no attack by gradients can move them."
        )
