"""Adversarial attacks on raw pixels, each by the exact or by the feedback route, and verified."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alignonce.robustness.checks import check_choice, check_images, check_labels
from alignonce.robustness.gradient_attacks import gradient_attack
from alignonce.robustness.routes import ROUTES, attackable_logits, gradients_by
from alignonce.robustness.square import square_attack
from alignonce.robustness.state import evaluating, predictions

__all__ = ["ATTACKS", "NORMS", "AttackResult", "attack", "perturbation_norms"]

DEFAULT_STEPS = {"fgsm": 1, "pgd": 20, "apgd": 100, "square": 0, "autoattack": 100}
"""Gradient steps of each attack if none are asked for."""

ATTACKS = tuple(DEFAULT_STEPS)
"""The names of the attacks."""

NORMS = ("linf", "l2")
"""The norms that a perturbation can be bounded in."""

_SEARCHES = {
    "fgsm": ("fgsm",),
    "pgd": ("pgd",),
    "apgd": ("apgd",),
    "square": ("square",),
    "autoattack": ("apgd", "apgd-dlr", "square"),
}


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What an attack left of a model's accuracy."""

    name: str
    norm: str
    eps: float
    route: str
    adversarial: Tensor
    """Images that fool the model, or the clean ones where none was found, shape (N, C, H, W)."""
    clean_correct: Tensor
    """Which clean images the model classifies right, bool, (N,)."""
    robust: Tensor
    """Which of those it still classifies right, bool, (N,)."""

    @property
    def clean_accuracy(self) -> float:
        """The share of clean images that are classified right."""
        return float(self.clean_correct.double().mean())

    @property
    def robust_accuracy(self) -> float:
        """The share of images that are classified right before and after the attack."""
        return float(self.robust.double().mean())


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    name: str,
    *,
    eps: float,
    norm: str = "linf",
    route: str = "exact",
    steps: int | None = None,
    restarts: int = 1,
    queries: int = 1000,
    source: nn.Module | None = None,
    seed: int = 0,
    batch_size: int = 128,
    verbose: bool = False,
) -> AttackResult:
    """Attack a model, and verify on its own predictions what the attack has found.

    Only images that are classified right are attacked, and a further search (a restart, the next attack of
    an ensemble) goes on with those that still stand. Whatever a search returns is projected into the ball
    and into [0, 1] first.

    ``autoattack`` is APGD on the cross-entropy, APGD on the difference of logits ratio (three classes or
    more) and Square, one after the other. The authors' standard version has targeted losses and FAB
    besides: it can find a little more, so do not enter these numbers in its tables.

    Args:
        model: maps raw pixels (N, C, H, W) to logits (N, classes), with the normalisation inside; its mode,
            gradients and statistics are left as they were, and so are global random states.
        images: pixels in [0, 1], shape (N, C, H, W).
        labels: class numbers, shape (N,).
        name: ``"fgsm"``, ``"pgd"``, ``"apgd"``, ``"square"`` or ``"autoattack"``.
        eps: radius of the ball around each image, in pixel values (8/255, say), in the norm.
        norm: ``"linf"`` or ``"l2"``.
        route: the way of gradients, ``"exact"`` (through W: the honest number) or ``"feedback"`` (as the
            learning rule makes them). Square uses no gradients.
        steps: gradient steps of a search: 20 for PGD and 100 for APGD if None.
        restarts: searches from different random starts; FGSM has no start to vary.
        queries: forward passes for each image in a search of Square.
        source: another model of the same classes to craft on (a transfer attack): ``route`` is about its
            gradients; results are verified on ``model``.
        seed: decides all that is random.
        batch_size: images in one pass.
        verbose: show the attack library's progress bars.

    Returns:
        The adversarial images and which images withstood.

    Raises:
        ValueError: if an argument is not as said above.
        ImportError: if the attack library is not installed (Square alone does without).

    Source: FGSM, Goodfellow et al. 2015, arXiv 1412.6572; PGD, Madry et al. 2018, arXiv 1706.06083; APGD and
    AutoAttack, Croce & Hein 2020, arXiv 2003.01690; Square, Andriushchenko et al. 2020, arXiv 1912.00049.
    """
    check_choice("attack", name, ATTACKS)
    check_choice("norm", norm, NORMS)
    check_choice("route", route, ROUTES)
    if not 0 < eps < math.inf:
        raise ValueError(f"eps must be above 0 and finite, got {eps}")
    steps = DEFAULT_STEPS[name] if steps is None else steps
    if (steps < 1 and name != "square") or restarts < 1 or queries < 1:
        raise ValueError(
            f"steps, restarts and queries must be 1 or more, got {steps}, {restarts} and {queries}"
        )
    check_images(images)
    check_labels(labels, len(images))
    images = images.detach().to(torch.promote_types(images.dtype, torch.float32))
    labels = labels.to(images.device, torch.int64)
    source = model if source is None else source
    forward = functools.partial(attackable_logits, source)

    def search(part: str, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        if part == "square":
            return _square(forward, images, labels, eps, norm, queries, seed, batch_size)
        return gradient_attack(
            part, forward, images, labels, num_classes,
            eps=eps, norm=norm, steps=steps, seed=seed, batch_size=batch_size, verbose=verbose,
        )  # fmt: skip

    with evaluating(model), evaluating(source), gradients_by(source, route):
        predicted, num_classes = predictions(model, images, batch_size)
        check_labels(labels, len(images), num_classes)
        if predictions(source, images[:1], 1)[1] != num_classes:
            raise ValueError(f"source must have the model's {num_classes} classes")
        clean_correct = predicted == labels
        adversarial, standing = images.clone(), clean_correct.clone()
        for restart in range(1 if name == "fgsm" else restarts):
            for part in _SEARCHES[name]:
                left = standing.nonzero()[:, 0]
                if not len(left) or (part == "apgd-dlr" and num_classes < 3):
                    continue
                crafted = search(part, images[left], labels[left], seed + restart)
                crafted = _into_ball(crafted.to(images), images[left], eps, norm)
                fooled = predictions(model, crafted, batch_size)[0] != labels[left]
                adversarial[left[fooled]] = crafted[fooled]
                standing[left[fooled]] = False
        robust = clean_correct & (predictions(model, adversarial, batch_size)[0] == labels)
    return AttackResult(name, norm, eps, route, adversarial, clean_correct, robust)


def perturbation_norms(adversarial: Tensor, images: Tensor, norm: str) -> Tensor:
    """Distance of each adversarial image from its clean one.

    Args:
        adversarial: pixels, shape (N, C, H, W).
        images: the clean pixels, of the same shape.
        norm: ``"linf"`` or ``"l2"``.

    Returns:
        Distances in pixel values, shape (N,).

    Raises:
        ValueError: if the norm is unknown.
    """
    check_choice("norm", norm, NORMS)
    delta = (adversarial - images).flatten(1)
    return delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)


def _square(
    forward: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor,
    eps: float, norm: str, queries: int, seed: int, batch_size: int,
) -> Tensor:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    batches = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    search = functools.partial(square_attack, eps=eps, norm=norm, queries=queries, generator=generator)
    return torch.cat([search(lambda x: forward(x).to(x), *batch) for batch in batches])


def _into_ball(crafted: Tensor, images: Tensor, eps: float, norm: str) -> Tensor:
    delta = (crafted - images).nan_to_num(0)
    if norm == "linf":
        delta = delta.clamp(-eps, eps)
    else:
        length = perturbation_norms(images + delta, images, norm).clamp(min=1e-12)
        delta = delta * (eps / length).clamp(max=1).view(-1, 1, 1, 1)
    return (images + delta).clamp(0, 1)
