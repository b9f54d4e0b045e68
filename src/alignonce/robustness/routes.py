"""The two routes by which an attacker may get a gradient from a model with feedback weights."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignonce import direct
from alignonce.layers import FeedbackLayer
from alignonce.model_access import exact_gradients, unwrap
from alignonce.robustness.checks import check_choice, check_images, check_labels
from alignonce.robustness.state import evaluating, logits_of, predictions

__all__ = ["ROUTES", "attackable_logits", "gradients_by", "has_feedback_route", "input_gradients"]

ROUTES = ("exact", "feedback")
"""``exact`` goes through W: backpropagation's gradient, and the honest number. ``feedback`` goes through B,
as the learning rule makes it: what an attacker sees who has the feedback path only. In a model without
feedback weights they are the same."""


def gradients_by(model: nn.Module, route: str) -> AbstractContextManager[None]:
    """A context in which the model's gradients take a route.

    Raises:
        ValueError: if the route is not one of ``ROUTES``.
    """
    check_choice("route", route, ROUTES)
    return exact_gradients(model) if route == "exact" else nullcontext()


def has_feedback_route(model: nn.Module) -> bool:
    """Return whether the two routes differ: a layer has feedback weights, or the model direct feedback."""
    model = unwrap(model)
    layers = (module for module in model.modules() if isinstance(module, FeedbackLayer))
    return next(layers, None) is not None or next(direct.states_of(model), None) is not None


def attackable_logits(model: nn.Module, images: Tensor) -> Tensor:
    """The model's logits, with a gradient of zero where a route ends before the pixels: no error to raise."""
    logits = logits_of(model, images)
    return logits + 0 * images.flatten(1).sum(1, keepdim=True).to(logits)


def input_gradients(
    model: nn.Module, images: Tensor, labels: Tensor, *, route: str = "exact", batch_size: int = 128
) -> Tensor:
    """Gradient of each image's cross-entropy with respect to its pixels.

    Args:
        model: maps raw pixels (N, C, H, W) to logits (N, classes); its state is left as it was.
        images: pixels in [0, 1], shape (N, C, H, W).
        labels: class numbers, shape (N,).
        route: ``"exact"`` or ``"feedback"``.
        batch_size: images in one pass.

    Returns:
        Gradients per pixel value, of the images' shape, dtype and device.

    Raises:
        ValueError: if an argument is not as said above.
    """
    check_images(images)
    check_labels(labels, len(images))
    parts = []
    with evaluating(model), gradients_by(model, route):
        _, num_classes = predictions(model, images[:1], batch_size)
        check_labels(labels, len(images), num_classes)
        for part, targets in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            pixels = part.detach().requires_grad_()
            logits = attackable_logits(model, pixels)
            loss = F.cross_entropy(logits, targets.to(logits.device, torch.int64), reduction="sum")
            parts.append(torch.autograd.grad(loss, pixels)[0])
    return torch.cat(parts)
