"""Learning rules whose feedback weights are made once and stay fixed."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from numbers import Real
from types import MappingProxyType

import torch
from torch import Tensor

from alignonce.rules.base import LearningRule, generator_for, whole_number

__all__ = ["FixedScale", "RandomFeedback", "SoftAlignment"]


@dataclass(frozen=True)
class RandomFeedback(LearningRule):
    """Feedback alignment: B is random, independent of W, of W's norm, and fixed.

    Source: Lillicrap et al. 2016, doi:10.1038/ncomms13276.

    Args:
        seed: with the weight's name, decides B.

    Raises:
        ValueError: if ``seed`` is no integer.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> _ = set_learning_rule(model, RandomFeedback(seed=1))
        >>> abs(alignment(model)["2"]) < 0.5
        True
    """

    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", whole_number(self.seed, "seed"))

    def _feedback(self, w: Tensor, name: str, depth: int) -> Tensor:
        noise = _noise(w, self.seed, name)
        return noise * (w.norm() / noise.norm())


Cosines = float | Mapping[str, float] | Callable[[str, int], float]


@dataclass(frozen=True)
class SoftAlignment(LearningRule):
    """One-time soft alignment: B starts at a chosen cosine to W, with W's norm, and stays fixed.

    B = c·W + sqrt(1 − c²)·N, where N is random, orthogonal to W and of W's norm. Cosine and norm are exact
    to the rounding of W's dtype: c = 1 gives a copy of W₀, c = 0 a random B orthogonal to W₀.

    Source: Cheon, Bae and Paik 2025, arXiv 2505.20892.

    Args:
        cosine: c in [-1, 1] for every layer; or a mapping from weight names or globs to c (the first that
            fits counts); or a function of the weight's name and of the number of weights before it.
        seed: with the weight's name, decides N.

    Raises:
        ValueError: if a cosine is outside [-1, 1] or NaN, or ``seed`` is no integer; later, from
            :func:`alignonce.set_learning_rule`, if a layer has no cosine or cannot have the one asked for.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> _ = set_learning_rule(model, SoftAlignment(cosine={"0": 0.9, "*": 0.5}))
        >>> {name: round(cosine, 3) for name, cosine in alignment(model).items()}
        {'0': 0.9, '2': 0.5}
    """

    cosine: Cosines = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", whole_number(self.seed, "seed"))
        if isinstance(self.cosine, Mapping):
            for pattern, value in self.cosine.items():
                _check_cosine(value, f"cosine[{pattern!r}]")
            # A copy: what the user does with the mapping later is not a change of the rule.
            object.__setattr__(self, "cosine", MappingProxyType(dict(self.cosine)))
        elif not callable(self.cosine):
            _check_cosine(self.cosine, "cosine")

    def __reduce__(self) -> tuple[object, ...]:  # a mapping proxy cannot be pickled
        cosine = dict(self.cosine) if isinstance(self.cosine, Mapping) else self.cosine
        return type(self), (cosine, self.seed)

    def cosine_for(self, name: str, depth: int) -> float:
        """The cosine of the layer of this name, with so many forward weights before it.

        Raises:
            ValueError: if the mapping has no entry for it, or the function returns no valid cosine.
        """
        if isinstance(self.cosine, Mapping):
            for pattern, value in self.cosine.items():
                if fnmatchcase(name, pattern):
                    return float(value)
            raise ValueError(f"cosine has no value for {name!r}: add a key for it, or '*' for the rest")
        if callable(self.cosine):
            return _check_cosine(self.cosine(name, depth), f"cosine({name!r}, {depth})")
        return float(self.cosine)

    def refusal(self, weight: Tensor, name: str, depth: int) -> str | None:
        """As other rules; and one number can only have a cosine of 1 or -1 to another."""
        if weight.numel() == 1 and abs(cosine := self.cosine_for(name, depth)) != 1:
            return f"has one element, so that its cosine can only be 1 or -1, not {cosine}"
        return super().refusal(weight, name, depth)

    def _feedback(self, w: Tensor, name: str, depth: int) -> Tensor:
        cosine = self.cosine_for(name, depth)
        if abs(cosine) == 1:
            return w if cosine == 1 else -w
        noise = _noise(w, self.seed, name)
        noise = noise - w * ((noise * w).sum() / w.square().sum())
        return cosine * w + math.sqrt(1 - cosine**2) * noise * (w.norm() / noise.norm())


@dataclass(frozen=True)
class FixedScale(LearningRule):
    """The rule of norm layers with ``norms="fixed"``: γ_B is a copy of γ, all zero allowed, and stays fixed.

    A residual block whose last scale starts at zero learns that scale first, as with backpropagation, but its
    γ_B of zero then keeps errors out of the block for good.
    """

    def feedback_for(self, weight: Tensor, name: str, depth: int) -> Tensor:
        """Copy the scale γ.

        Args:
            weight: γ.
            name: its name in the model.
            depth: not used.

        Returns:
            γ_B, sharing no memory with γ.

        Raises:
            ValueError: if γ holds NaN or infinity.
        """
        if not torch.isfinite(weight).all():
            raise ValueError(f"the scale {name!r} holds NaN or infinite values")
        return self._feedback(weight.detach(), name, depth)

    def _feedback(self, w: Tensor, name: str, depth: int) -> Tensor:
        return w.clone()


def _check_cosine(value: object, argument: str) -> float:
    if not isinstance(value, Real):
        raise ValueError(f"{argument} must be a number in [-1, 1], got {value!r}")
    if not -1 <= float(value) <= 1:  # NaN fails this too
        raise ValueError(f"{argument} must be in [-1, 1], got {value}")
    return float(value)


def _noise(w: Tensor, seed: int, name: str) -> Tensor:
    generator = generator_for(f"{seed}/{name}")
    # The device is named, here and wherever numbers are drawn: the user may have set another default.
    return torch.randn(w.shape, dtype=torch.float64, device="cpu", generator=generator)
