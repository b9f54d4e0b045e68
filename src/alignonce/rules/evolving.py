"""Learning rules whose feedback weights change while the network learns.

A training loop calls :func:`alignonce.evolve` after each ``optimizer.step()``; it calls the rule's
``evolve`` for each forward weight.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from alignonce.rules.base import LearningRule, generator_for, whole_number
from alignonce.rules.fixed import Cosines, SoftAlignment

__all__ = [
    "EvolutionStep",
    "EvolvingRule",
    "PeriodicAlignment",
    "SignSymmetry",
]


@dataclass(frozen=True)
class EvolutionStep:
    """What a rule gets to see of one forward weight after a step of the optimiser.

    Where weights are spread over processes (:mod:`alignonce.distributed`), tensors are this process's rows.
    """

    weight: Tensor
    """The forward weight W after the step."""
    feedback: Tensor
    """The feedback weight B, of W's shape."""
    previous: Tensor | None
    """W as the last call left it, for rules that ask for it with ``remembers_weight``."""
    name: str
    """W's name in the model."""
    depth: int
    """How many forward weights come before W in the model."""
    number: int
    """Steps of the optimiser so far, 1 after the first."""
    total: Callable[[Tensor], Tensor] = torch.sum
    """The sum of a tensor of W's shape over all its elements, those of other processes included."""


class EvolvingRule(LearningRule):
    """A learning rule whose feedback weights change after each step of the optimiser."""

    @property
    def evolves(self) -> bool:
        """Whether feedback weights change in learning."""
        return True

    @property
    def is_rowwise(self) -> bool:
        """Whether each row (first dimension) of B follows from that row of W and B and from ``step.total``.

        Such a rule can go with weights whose rows are spread over processes.
        """
        return False

    @abstractmethod
    def evolve(self, step: EvolutionStep) -> None:
        """Change B (and W, where the rule says so) in place, after the optimiser has changed W."""


@dataclass(frozen=True)
class PeriodicAlignment(EvolvingRule):
    """Soft alignment, repeated every few steps: from one-time alignment to backpropagation.

    The part of B that is orthogonal to W keeps its direction. ``every=1`` with ``cosine=1`` is
    backpropagation; without an end to ``every`` it is :class:`SoftAlignment`.

    Args:
        every: optimiser steps between alignments.
        cosine: as in :class:`SoftAlignment`.
        seed: as in :class:`SoftAlignment`.

    Raises:
        ValueError: if ``every`` is not a positive integer, or as :class:`SoftAlignment` does.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> print(set_learning_rule(model, PeriodicAlignment(every=100)).rule.transports)
        whole forward weights, every 100 steps
    """

    every: int = 100
    cosine: Cosines = 1.0
    seed: int = 0
    _start: SoftAlignment = field(init=False, repr=False, compare=False)

    @property
    def transports(self) -> str:
        """What of W the rule copies while the network learns."""
        return f"whole forward weights, every {self.every} steps"

    @property
    def is_rowwise(self) -> bool:
        """Yes: cosine and norm are sums."""
        return True

    def __post_init__(self) -> None:
        keep_whole(self, every=1)
        object.__setattr__(self, "_start", SoftAlignment(self.cosine, self.seed))
        object.__setattr__(self, "cosine", self._start.cosine)
        object.__setattr__(self, "seed", self._start.seed)

    def __reduce__(self) -> tuple[object, ...]:
        cosine = dict(self.cosine) if isinstance(self.cosine, Mapping) else self.cosine
        return type(self), (self.every, cosine, self.seed)

    def refusal(self, weight: Tensor, name: str, depth: int) -> str | None:
        """As the rule that B starts with."""
        return self._start.refusal(weight, name, depth)

    def _feedback(self, w: Tensor, name: str, depth: int) -> Tensor:
        return self._start._feedback(w, name, depth)

    def evolve(self, step: EvolutionStep) -> None:
        """Align B with W again if it is time."""
        if step.number % self.every:
            return
        cosine = self._start.cosine_for(step.name, step.depth)
        if abs(cosine) == 1:
            step.feedback.copy_(cosine * step.weight)
            return
        w, b = step.weight.double(), step.feedback.double()
        w_squared = step.total(w.square())
        noise = b - w * (step.total(b * w) / w_squared)
        norms = (w_squared / step.total(noise.square())).sqrt()
        step.feedback.copy_(cosine * w + math.sqrt(1 - cosine**2) * norms * noise)


@dataclass(frozen=True)
class SignSymmetry(EvolvingRule):
    """B has the signs of W and magnitudes of its own; B's norm is that of W at the start.

    Source: Liao et al. 2016, arXiv 1510.05067 (uSF: uniform; brSF: batch-random; frSF: fixed random
    magnitudes); Moskovitz et al. 2018, arXiv 1812.06488; Xiao et al. 2019, arXiv 1811.03567.

    Args:
        magnitudes: ``"uniform"``: all alike; ``"fixed"``: drawn once; ``"batch"``: dealt out anew after each
            step. Random ones are absolute values of normal numbers; dealing out is by a random cyclic shift
            of all, since drawing as many numbers as there are weights takes longer than a step of learning.
        once: keep the signs of W at the start for ever: the one-time form, without transport in learning.
        seed: with the weight's name, decides the random magnitudes.

    Raises:
        ValueError: if ``magnitudes`` is none of the above, or is ``"batch"`` with ``once``.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> _ = set_learning_rule(model, SignSymmetry(once=True))
        >>> torch.equal(model[0].feedback.sign(), model[0].weight.sign())
        True
    """

    magnitudes: Literal["uniform", "fixed", "batch"] = "uniform"
    once: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        keep_whole(self, seed=None)
        if self.magnitudes not in ("uniform", "fixed", "batch"):
            raise ValueError(f"magnitudes must be 'uniform', 'fixed' or 'batch', got {self.magnitudes!r}")
        if self.once and self.magnitudes == "batch":
            raise ValueError(
                "magnitudes='batch' are drawn at each step: once=True wants 'uniform' or 'fixed'"
            )

    @property
    def evolves(self) -> bool:
        """Whether B follows the signs of W."""
        return not self.once

    @property
    def transports(self) -> str:
        """What of W the rule copies while the network learns."""
        return "" if self.once else "the signs of forward weights, every step"

    @property
    def is_rowwise(self) -> bool:
        """Unless magnitudes are dealt out anew among all rows."""
        return self.magnitudes != "batch"

    def _feedback(self, w: Tensor, name: str, depth: int) -> Tensor:
        magnitude = torch.ones_like(w)
        if self.magnitudes != "uniform":
            generator = generator_for(f"{self.seed}/{name}")
            magnitude = torch.randn(w.shape, dtype=w.dtype, device="cpu", generator=generator).abs_()
        return torch.copysign(magnitude * (w.norm() / magnitude.norm()), w)

    def evolve(self, step: EvolutionStep) -> None:
        """Give B the signs that W has now."""
        magnitudes = step.feedback
        if self.magnitudes == "batch":
            generator = generator_for(f"{self.seed}/{step.name}/{step.number}")
            shift = int(torch.randint(magnitudes.numel(), (), device="cpu", generator=generator))
            flat = magnitudes.flatten()
            # torch.roll would do, but goes element by element.
            magnitudes = torch.cat([flat[shift:], flat[:shift]]).view_as(magnitudes)
        torch.copysign(magnitudes, step.weight, out=step.feedback)


def keep_whole(rule: EvolvingRule, **least: int | None) -> None:
    """Check settings of a rule, each with the least that it can be; keep them as Python's integers."""
    for name, value in least.items():
        object.__setattr__(rule, name, whole_number(getattr(rule, name), name, value))
