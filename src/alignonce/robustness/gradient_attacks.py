"""FGSM, PGD and APGD of the Adversarial Robustness Toolbox, on a model that the library cannot touch.

The library was chosen over foolbox, which has no APGD and imports a module that SciPy 2 drops. It works on
float32 NumPy arrays; what crosses between it and the model's device are pixels and logits.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alignonce.robustness.checks import optional_module
from alignonce.robustness.state import seeded

__all__ = ["gradient_attack"]

_LOSSES = {"apgd": "cross_entropy", "apgd-dlr": "difference_logits_ratio"}


def gradient_attack(
    name: str,
    forward: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    eps: float,
    norm: str,
    steps: int,
    seed: int,
    batch_size: int,
    verbose: bool,
) -> Tensor:
    """Craft images by a gradient attack of the library.

    Args:
        name: ``"fgsm"``, ``"pgd"``, ``"apgd"`` (on the cross-entropy) or ``"apgd-dlr"`` (on the difference of
            logits ratio, which needs three classes).
        forward: maps pixels (N, C, H, W) to logits (N, classes); gradients of it are the attacker's.
        images: pixels in [0, 1], shape (N, C, H, W).
        labels: class numbers, shape (N,).
        num_classes: how many logits.
        eps: radius of the ball, in pixel values.
        norm: ``"linf"`` or ``"l2"``.
        steps: gradient steps; FGSM has one.
        seed: decides the random starts; global random states are left as they were.
        batch_size: images in one pass.
        verbose: show the library's progress bars.

    Returns:
        The last image of each search, float32: to be projected and verified by the caller.
    """
    evasion = optional_module("art.attacks.evasion", "adversarial-robustness-toolbox")
    classification = optional_module("art.estimators.classification", "adversarial-robustness-toolbox")
    ball: dict[str, Any] = {"norm": np.inf if norm == "linf" else 2, "eps": eps, "batch_size": batch_size}
    targets = np.eye(num_classes, dtype=np.float32)[labels.cpu().numpy()]
    # The library draws random numbers when an attack is built, too. A flat loss gives it 0 / 0, of which the
    # caller makes no perturbation.
    with seeded(seed, images.device), np.errstate(divide="ignore", invalid="ignore"):
        estimator = classification.PyTorchClassifier(
            _Hidden(forward, images.device),
            nn.CrossEntropyLoss(),
            input_shape=tuple(images.shape[1:]),
            nb_classes=num_classes,
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        if name == "fgsm":
            attack = evasion.FastGradientMethod(estimator, **ball)
        elif name == "pgd":
            attack = evasion.ProjectedGradientDescent(
                # Steps that can cross the ball and come back, whatever their number (Madry et al. 2018).
                estimator, eps_step=2.5 * eps / steps, max_iter=steps, num_random_init=1, verbose=verbose,
                **ball,
            )  # fmt: skip
        else:
            attack = evasion.AutoProjectedGradientDescent(
                # The first step of the authors' code; the library's default is a fixed number.
                estimator, eps_step=2 * eps, max_iter=steps, nb_random_init=1, loss_type=_LOSSES[name],
                verbose=verbose, **ball,
            )  # fmt: skip
        crafted = attack.generate(images.detach().cpu().numpy().astype(np.float32), targets)
    return torch.from_numpy(crafted)


class _Hidden(nn.Module):
    """A module without parameters that calls the model.

    The library would move the model between devices, switch its mode, drop its gradients and, if it is a
    Sequential, call its children in place of itself.
    """

    def __init__(self, call: Callable[[Tensor], Tensor], device: torch.device) -> None:
        super().__init__()
        self.call = call
        self.device = device

    def forward(self, images: Tensor) -> Tensor:
        return self.call(images.to(self.device)).float().to(images.device)
