"""Learning rules whose feedback weights come to resemble forward weights without reading them backwards."""

from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from alignonce.rules.base import LearningRule, generator_for
from alignonce.rules.evolving import EvolutionStep, EvolvingRule, keep_whole
from alignonce.rules.fixed import RandomFeedback, SoftAlignment

__all__ = ["KolenPollack", "WeightMirror"]


@dataclass(frozen=True)
class KolenPollack(EvolvingRule):
    """B receives the same updates and the same decay as W, so that it converges to W without ever reading it.

    W and B take the same step U that the optimiser makes of the same gradient, and the same decay d:
    W ← W + U − d·W and B ← B + U − d·B, so that W − B shrinks by 1 − d at each step. In a machine each of
    the two computes U from signals that both have; here U is the change that the optimiser made to W.
    From a start with B = W it is backpropagation with weight decay, exactly.

    Source: Kolen and Pollack 1994; Akrout et al. 2019, arXiv 1904.05391, section 3.2.

    Args:
        decay: d, the part of W and B that is lost at each step. It replaces the optimiser's weight decay.
        steps: decay during so many steps only; None for always, as published. After them W learns without
            decay, and W − B stays what it is by then.
        start: how B begins: :class:`RandomFeedback` or :class:`SoftAlignment`.

    Raises:
        ValueError: if ``decay`` is not in [0, 1).

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> _ = set_learning_rule(model, KolenPollack(decay=1e-3))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> handle = evolve_after(optimizer, model)  # B learns whenever the optimiser steps
    """

    decay: float = 1e-3
    steps: int | None = None
    start: LearningRule = field(default_factory=RandomFeedback)

    @property
    def remembers_weight(self) -> bool:
        """The change that the optimiser made is the update of B too."""
        return True

    @property
    def is_rowwise(self) -> bool:
        """Yes: each element for itself."""
        return True

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {self.decay}")
        if self.steps is not None:
            keep_whole(self, steps=1)
        _check_start(self.start)

    def refusal(self, weight: Tensor, name: str, depth: int) -> str | None:
        """As the rule that B starts with."""
        return self.start.refusal(weight, name, depth)

    def _feedback(self, w: Tensor, name: str, depth: int) -> Tensor:
        return self.start._feedback(w, name, depth)

    def evolve(self, step: EvolutionStep) -> None:
        """Decay W; give B the same update and the same decay."""
        previous = cast(Tensor, step.previous)
        decay = self.decay if self.steps is None or step.number <= self.steps else 0.0
        # B + U − d·B with U = W' − W, in the order that loses nothing where B equals W.
        deviation = (previous - step.feedback).mul_(1 - decay)
        step.weight.sub_(previous, alpha=decay)
        torch.sub(step.weight, deviation, out=step.feedback)


@dataclass(frozen=True)
class WeightMirror(EvolvingRule):
    """B learns W from the layer's responses to noise, in mirror phases between the steps of learning.

    In a mirror phase the layer's inputs are noise x of mean 0 and variance 1, its responses are y = W·x, and
    B ← (1 − r)·B + r·mean(y·xᵀ), whose fixed point is W, since E[y·xᵀ] = W. The forward weight is used
    forwards only.

    Source: Akrout et al. 2019, arXiv 1904.05391, section 3.1 (equation 7, with its decay).

    Args:
        every: optimiser steps between mirror phases.
        samples: noise vectors in a phase.
        rate: r, the part of B that a phase replaces.
        seed: with the weight's name and the step, decides the noise.
        start: how B begins: :class:`RandomFeedback` or :class:`SoftAlignment`.

    Raises:
        ValueError: if ``every`` or ``samples`` is not a positive integer, or ``rate`` is not in (0, 1].

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> _ = set_learning_rule(model, WeightMirror(every=10))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> handle = evolve_after(optimizer, model)  # a mirror phase after every tenth step
    """

    every: int = 10
    samples: int = 512
    rate: float = 0.1
    seed: int = 0
    start: LearningRule = field(default_factory=RandomFeedback)

    @property
    def is_rowwise(self) -> bool:
        """Yes: a row of W makes a response of its own; the noise is the same in each process."""
        return True

    def __post_init__(self) -> None:
        keep_whole(self, every=1, samples=1, seed=None)
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate must be in (0, 1], got {self.rate}")
        _check_start(self.start)

    def refusal(self, weight: Tensor, name: str, depth: int) -> str | None:
        """As the rule that B starts with."""
        return self.start.refusal(weight, name, depth)

    def _feedback(self, w: Tensor, name: str, depth: int) -> Tensor:
        return self.start._feedback(w, name, depth)

    def evolve(self, step: EvolutionStep) -> None:
        """Run a mirror phase if it is time."""
        if step.number % self.every:
            return
        matrix = step.weight.flatten(1)
        noise = torch.randn(
            matrix.shape[1], self.samples, device=matrix.device, dtype=matrix.dtype,
            generator=generator_for(f"{self.seed}/{step.name}/{step.number}", matrix.device),
        )  # fmt: skip
        mirrored = (matrix @ noise) @ noise.t() / self.samples
        step.feedback.lerp_(mirrored.view_as(step.feedback), self.rate)


def _check_start(start: object) -> None:
    if not isinstance(start, RandomFeedback | SoftAlignment):
        raise ValueError(f"start must be RandomFeedback or SoftAlignment, got {start!r}")
