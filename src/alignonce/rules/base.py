"""What a learning rule is: how feedback weights begin, and how (if at all) they change."""

import hashlib
import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Backpropagation", "LearningRule"]


class LearningRule(ABC):
    """How feedback weights begin, and how (if at all) they change.

    A rule is a value: it holds settings, never a model's tensors, so that one rule serves many models.

    Example:
        >>> class Transposed(LearningRule):
        ...     def _feedback(self, w, name, depth):
        ...         return w.flip(0)
        >>> model = nn.Linear(8, 4)
        >>> _ = set_learning_rule(model, Transposed())
        >>> torch.equal(model.feedback, model.weight.flip(0))
        True
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
    def has_layer_feedback(self) -> bool:
        """Whether each forward weight has a feedback weight of its own, made by :meth:`feedback_for`."""
        return True

    @property
    def has_direct_feedback(self) -> bool:
        """Whether errors go from the outputs to each layer at once (:mod:`alignonce.direct`)."""
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
    """The reference: the error goes back through W itself. Every model starts with this rule.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> _ = set_learning_rule(model, RandomFeedback())
        >>> _ = set_learning_rule(model, Backpropagation())  # back to a plain model
        >>> type(model[0])
        <class 'torch.nn.modules.linear.Linear'>
    """

    @property
    def has_layer_feedback(self) -> bool:
        """No: its layers are plain ones."""
        return False

    def _feedback(self, w: Tensor, name: str, depth: int) -> Tensor:
        raise TypeError("backpropagation has no feedback weights: its layers are plain layers")


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


def generator_for(key: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A random generator that depends on a text only."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)
