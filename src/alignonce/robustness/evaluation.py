"""A model under attack from all sides: both routes side by side, transfer, black box, masking."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from alignonce.robustness.attacks import attack
from alignonce.robustness.checks import check_choice
from alignonce.robustness.masking import RobustAccuracy, masking_findings
from alignonce.robustness.routes import ROUTES, has_feedback_route, input_gradients
from alignonce.summary import table

__all__ = ["AdversarialReport", "adversarial_evaluation"]

_WHITE_BOX = ("fgsm", "pgd", "apgd")


@dataclass(frozen=True)
class AdversarialReport:
    """Accuracies under attack and what looks masked; prints as a table."""

    clean_accuracy: float
    images: int
    """How many images were attacked: 0.01 of accuracy is a hundredth of them."""
    rows: tuple[RobustAccuracy, ...]
    unbounded_accuracy: float
    """Accuracy left by PGD, exact route, whose ball holds every image: 0 if gradients work."""
    zero_gradient_share: float
    """Share of images whose exact gradient is zero in every pixel."""
    findings: tuple[str, ...]
    """What looks like gradient masking, in words; empty if nothing does."""

    @property
    def masked(self) -> bool:
        """Whether anything looks like gradient masking."""
        return bool(self.findings)

    def accuracy(self, attack: str, eps: float, route: str) -> float:
        """The accuracy that an attack leaves.

        Raises:
            KeyError: if it was not measured.
        """
        for row in self.rows:
            if (row.attack, row.eps, row.route) == (attack, eps, route):
                return row.accuracy
        raise KeyError(f"no {attack} at eps {eps} by route {route!r}")

    def __str__(self) -> str:
        routes = list(dict.fromkeys(row.route for row in self.rows))
        cells = {(row.attack, row.norm, row.eps, row.route): f"{row.accuracy:.3f}" for row in self.rows}
        body = [("none", "", "0", *[f"{self.clean_accuracy:.3f}"] * len(routes))]
        for name, norm, eps in dict.fromkeys(key[:3] for key in cells):
            body.append((name, norm, f"{eps:.4g}", *(cells.get((name, norm, eps, r), "") for r in routes)))
        verdict = [f"masking: {text}" for text in self.findings] or ["masking: no sign of it"]
        return "\n".join([table(("attack", "norm", "eps", *routes), body), "", *verdict])


def adversarial_evaluation(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Iterable[float],
    norm: str = "linf",
    attacks: Sequence[str] = ("fgsm", "pgd"),
    source: nn.Module | None = None,
    steps: int | None = None,
    restarts: int = 1,
    queries: int = 1000,
    seed: int = 0,
    batch_size: int = 128,
) -> AdversarialReport:
    """Attack a model by both routes, by transfer and without gradients, and look for gradient masking.

    Args:
        model: maps raw pixels (N, C, H, W) to logits (N, classes), with the normalisation inside; its state
            and global random states are left as they were.
        images: pixels in [0, 1], shape (N, C, H, W).
        labels: class numbers, shape (N,).
        eps: one or more radii of the ball, in pixel values.
        norm: ``"linf"`` or ``"l2"``.
        attacks: gradient attacks, each taken by both routes: ``"fgsm"``, ``"pgd"``, ``"apgd"``.
        source: a model trained with backpropagation to transfer attacks from; no transfer if None.
        steps: gradient steps of a search; each attack's own default if None.
        restarts: searches from different random starts.
        queries: forward passes of Square, the black-box attack, for each image.
        seed: decides all that is random.
        batch_size: images in one pass.

    Returns:
        A row for each attack, radius and route, and the findings of the masking check.

    Raises:
        ValueError: if an argument is not as said above.
        ImportError: if the attack library is not installed.

    Source: Carlini et al. 2019, arXiv 1902.06705, on what an evaluation owes its reader.
    """
    for name in attacks:
        check_choice("gradient attack", name, _WHITE_BOX)
    radii = (eps,) if isinstance(eps, int | float) else tuple(eps)
    if not radii or not attacks:
        raise ValueError("there must be at least one eps and one attack")

    has_feedback = has_feedback_route(model)
    rows: list[RobustAccuracy] = []
    clean_accuracy = 0.0
    for radius in radii:
        runs = [(name, model, route, route) for name in attacks for route in ROUTES]
        if source is not None:
            runs += [(name, source, "exact", "transfer") for name in attacks]
        runs += [("square", model, "exact", "black box")]
        for name, crafted_on, route, label in runs:
            if label == "feedback" and not has_feedback:
                # Plain backpropagation: the same attack, so the same number.
                rows.append(replace(rows[-1], route=label))
                continue
            result = attack(
                model, images, labels, name, eps=radius, norm=norm, route=route, steps=steps,
                restarts=restarts, queries=queries, source=crafted_on, seed=seed, batch_size=batch_size,
            )  # fmt: skip
            clean_accuracy = result.clean_accuracy
            rows.append(RobustAccuracy(name, norm, radius, label, result.robust_accuracy))

    # From any image to any other: 1 in each pixel.
    everything = 1.0 if norm == "linf" else math.sqrt(images[0].numel())
    unbounded = attack(
        model, images, labels, "pgd", eps=everything, norm=norm, restarts=restarts, seed=seed,
        batch_size=batch_size,
    ).robust_accuracy  # fmt: skip
    gradients = input_gradients(model, images, labels, batch_size=batch_size)
    zero_share = float((gradients.flatten(1).abs().amax(1) == 0).double().mean())
    findings = masking_findings(rows, unbounded_accuracy=unbounded, zero_gradient_share=zero_share)
    return AdversarialReport(clean_accuracy, len(images), tuple(rows), unbounded, zero_share, findings)
