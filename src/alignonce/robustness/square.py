"""Square attack: random search for adversarial images, without gradients.

Written here because the attack library's version searches weakly in L2 (on a small CNN for 8x8 digits it
left 69 % of the images standing where the authors' code left 51 %) and fails on images of some sizes.

Source: Andriushchenko et al. 2020, arXiv 1912.00049; constants and schedule as in the authors' code.
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

__all__ = ["square_attack"]

_FIRST_SHARE = 0.8
"""Share of the pixels in the first square."""

_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the queries after which the square's area is halved."""


def square_attack(
    forward: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: str,
    queries: int,
    generator: Generator,
) -> Tensor:
    """Search for adversarial images in the ball around each image.

    Args:
        forward: maps pixels (N, C, H, W) to logits (N, classes).
        images: pixels in [0, 1], shape (N, C, H, W).
        labels: class numbers, shape (N,), on the same device.
        eps: radius of the ball, in pixel values.
        norm: ``"linf"`` or ``"l2"``.
        queries: forward passes for each image, at most.
        generator: the source of random numbers, on the CPU.

    Returns:
        The best image found in each ball, whether or not it fools the model.
    """
    start, step = (_start_linf, _step_linf) if norm == "linf" else (_start_l2, _step_l2)
    with torch.no_grad():
        best = start(images, eps, generator)
        margins = _margins(forward(best), labels)
        for query in range(1, queries):
            standing = (margins > 0).nonzero()[:, 0]
            if not len(standing):
                break
            area = _FIRST_SHARE * 0.5 ** sum(query / queries > share for share in _HALVINGS)
            proposal = step(images[standing], best[standing], area, eps, generator)
            new = _margins(forward(proposal), labels[standing])
            better = new < margins[standing]
            best[standing[better]] = proposal[better]
            margins[standing[better]] = new[better]
    return best


def _margins(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the label's logit is above the best other one; 0 or less fools the model."""
    labels = labels[:, None]
    others = logits.scatter(1, labels, -math.inf).amax(1)
    return logits.gather(1, labels)[:, 0] - others


def _start_linf(images: Tensor, eps: float, generator: Generator) -> Tensor:
    count, channels, _, width = images.shape
    return (images + eps * _signs((count, channels, 1, width), images, generator)).clamp(0, 1)


def _step_linf(images: Tensor, best: Tensor, area: float, eps: float, generator: Generator) -> Tensor:
    channels, height, width = images.shape[1:]
    size = min(max(round(math.sqrt(area * height * width)), 1), height, width)
    rows, columns = _window(height, width, size, generator)
    proposal = best.clone()
    proposal[:, :, rows, columns] += 2 * eps * _signs((channels, 1, 1), images, generator)
    return torch.minimum(torch.maximum(proposal, images - eps), images + eps).clamp(0, 1)


def _start_l2(images: Tensor, eps: float, generator: Generator) -> Tensor:
    count, channels, height, width = images.shape
    size = max(1, min(height, width) // 5)
    delta = torch.zeros_like(images)
    for row in range(0, height - size + 1, size):
        for column in range(0, width - size + 1, size):
            delta[:, :, row : row + size, column : column + size] = _bump(size, images, generator) * _signs(
                (count, channels, 1, 1), images, generator
            )
    return _on_sphere(images, delta, eps)


def _step_l2(images: Tensor, best: Tensor, area: float, eps: float, generator: Generator) -> Tensor:
    """Move the perturbation of one window into another one, where it gets a new shape."""
    count, channels, height, width = images.shape
    size = min(max(round(math.sqrt(area * height * width)), 3) | 1, height, width)
    into, out_of = (_window(height, width, size, generator) for _ in range(2))
    delta = best - images
    unused = (eps**2 - delta.square().sum((1, 2, 3), keepdim=True)).clamp(min=0)
    moved = torch.zeros_like(delta)
    for rows, columns in (into, out_of):
        moved[:, :, rows, columns] = delta[:, :, rows, columns]
    budget = (unused / channels + moved.square().sum((2, 3), keepdim=True)).sqrt()
    shape = _bump(size, images, generator) * _signs((count, channels, 1, 1), images, generator)
    shape = shape + _unit(delta[:, :, into[0], into[1]], (2, 3))
    delta[:, :, out_of[0], out_of[1]] = 0
    delta[:, :, into[0], into[1]] = _unit(shape, (2, 3)) * budget
    return _on_sphere(images, delta, eps)


def _bump(size: int, like: Tensor, generator: Generator) -> Tensor:
    """A square of two opposite peaks, of norm 1, upright or lying."""
    upper = size // 2
    bump = torch.cat([_peak(upper, size), -_peak(size - upper, size)])
    bump = bump / bump.norm()
    return (bump if torch.rand((), generator=generator) < 0.5 else bump.T).to(like)


def _peak(height: int, width: int) -> Tensor:
    """A pyramid of rectangles that get lower as they get wider, of norm 1."""
    peak = torch.zeros(height, width)
    if height:
        for reach in range(max(height, width) // 2 + 1):
            top, left = height // 2 - reach, width // 2 - reach
            peak[max(top, 0) : top + 2 * reach + 1, max(left, 0) : left + 2 * reach + 1] += (reach + 1) ** -2
        peak /= peak.norm()
    return peak


def _on_sphere(images: Tensor, delta: Tensor, eps: float) -> Tensor:
    return (images + eps * _unit(delta, (1, 2, 3))).clamp(0, 1)


def _unit(delta: Tensor, dims: tuple[int, ...]) -> Tensor:
    return delta / delta.square().sum(dims, keepdim=True).sqrt().clamp(min=1e-12)


def _signs(shape: tuple[int, ...], like: Tensor, generator: Generator) -> Tensor:
    return (2 * torch.randint(2, shape, generator=generator) - 1).to(like)


def _window(height: int, width: int, size: int, generator: Generator) -> tuple[slice, slice]:
    top, left = (int(torch.randint(side - size + 1, (), generator=generator)) for side in (height, width))
    return slice(top, top + size), slice(left, left + size)
