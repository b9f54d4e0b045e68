"""Learning rules: how feedback weights begin, and how (if at all) they change."""

import hashlib
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from numbers import Real
from types import MappingProxyType

import torch
from torch import Tensor

__all__ = ["Backpropagation", "LearningRule", "RandomFeedback", "SoftAlignment"]


class LearningRule(ABC):
    """How feedback weights begin, and how (if at all) they change.

    A rule is a value: it holds settings, never a model's tensors, so that one rule serves many models.
    """

    @property
    def evolves(self) -> bool:
        """Whether feedback weights change in learning, so that :func:`alignonce.evolve` must be called."""
        return False

    @property
    def remembers_weight(self) -> bool:
        """Whether its evolution needs the forward weight from before the optimiser's step."""
        return False

    @property
    def transports(self) -> str:
        """What of the forward weights the rule copies while the network learns; empty if nothing."""
        return ""

    def feedback_for(self, weight: Tensor, name: str, depth: int) -> Tensor:
        """Make the feedback weight B that a forward weight W begins with.

        The random part depends on the rule's seed, the name and the shape of W, and on nothing else: the
        same on every device, whatever the global random state.

        Args:
            weight: the forward weight W, of any shape.
            name: W's name in the model.
            depth: how many forward weights come before W in the model.

        Returns:
            B, of W's shape, dtype and device, sharing no memory with W.

        Raises:
            ValueError: if W holds NaN or infinity, or gives no direction to align with.
        """
        w = weight.detach().to("cpu", torch.float64)
        reason = self.refusal(w, name, depth)
        if reason is not None:
            raise ValueError(f"the forward weight {name!r} {reason}")
        # The extremes in place of isfinite(w), which on large weights takes as long as making B.
        if not torch.stack(w.aminmax()).isfinite().all():
            raise ValueError(f"the forward weight {name!r} holds NaN or infinite values")
        return self._feedback(w, name, depth).to(weight.device, weight.dtype, copy=True).contiguous()

    def refusal(self, weight: Tensor, name: str, depth: int) -> str | None:
        """Why the rule has no feedback weight for the values of a forward weight; None if it has one.

        Args:
            weight: the forward weight W, finite, of any shape.
            name: W's name in the model.
            depth: how many forward weights come before W in the model.

        Returns:
            The reason, to follow the weight's name in a sentence.
        """
        if not weight.numel():
            return "has no elements"
        if weight.any():
            return None
        return (
            "is all zero and gives no direction or norm for a feedback weight: initialise it otherwise, or "
            "leave the layer exact"
        )

    @abstractmethod
    def _feedback(self, w: Tensor, name: str, depth: int) -> Tensor:
        """B for W (or W itself), both float64 on the CPU; W is finite, not zero, and must not be changed."""


@dataclass(frozen=True)
class Backpropagation(LearningRule):
    """The reference: the error goes back through W itself. Every model starts with this rule."""

    def _feedback(self, w: Tensor, name: str, depth: int) -> Tensor:
        raise TypeError("backpropagation has no feedback weights: its layers are plain layers")


@dataclass(frozen=True)
class RandomFeedback(LearningRule):
    """Feedback alignment: B is random, independent of W, of W's norm, and fixed.

    Source: Lillicrap et al. 2016, doi:10.1038/ncomms13276.

    Args:
        seed: with the weight's name, decides B.

    Raises:
        ValueError: if ``seed`` is no integer.
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


def _check_cosine(value: object, argument: str) -> float:
    if not isinstance(value, Real):
        raise ValueError(f"{argument} must be a number in [-1, 1], got {value!r}")
    if not -1 <= float(value) <= 1:  # NaN fails this too
        raise ValueError(f"{argument} must be in [-1, 1], got {value}")
    return float(value)


def whole_number(value: object, argument: str, least: int | None = None) -> int:
    """An integer of any type (NumPy's too) as a Python one.

    Raises:
        ValueError: if the value is no integer, or below ``least`` (0 or 1).
    """
    kind = {None: "an integer", 0: "an integer, 0 or more", 1: "a positive integer"}[least]
    # True is an integer to Python, but a seed or a count that is given so is a slip.
    if not isinstance(value, bool) and hasattr(value, "__index__"):
        number = operator.index(value)
        if least is None or number >= least:
            return number
    raise ValueError(f"{argument} must be {kind}, got {value!r}")


def _noise(w: Tensor, seed: int, name: str) -> Tensor:
    generator = generator_for(f"{seed}/{name}")
    # The device is named, here and wherever numbers are drawn: the user may have set another default.
    return torch.randn(w.shape, dtype=torch.float64, device="cpu", generator=generator)


def generator_for(key: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A random generator that depends on a text only."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)
