"""Learning rules as short strings for humans: `bp`, `fa`, `soft:0.5`. Every known rule is listed here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignonce import LearningRule


def _backpropagation(value: float | None, seed: int) -> LearningRule:
    from alignonce import Backpropagation

    return Backpropagation()


def _random_feedback(value: float | None, seed: int) -> LearningRule:
    from alignonce import RandomFeedback

    return RandomFeedback(seed=seed)


def _soft_alignment(value: float | None, seed: int) -> LearningRule:
    from alignonce import SoftAlignment

    if value is None:
        raise ValueError("soft alignment needs a cosine, such as soft:0.5")
    return SoftAlignment(cosine=value, seed=seed)


@dataclass(frozen=True)
class RuleKind:
    """One known rule: its name in a spec, what it means, and how to make it from its value and a seed.

    `build` imports the rule when called, so that reading a configuration does not import torch. A rule with a
    `value_name` takes one number after a colon, within `bounds`; `default` is used when it is left out.
    """

    name: str
    title: str
    build: Callable[[float | None, int], LearningRule]
    value_name: str | None = None
    default: float | None = None
    bounds: tuple[float, float] | None = None

    @property
    def usage(self) -> str:
        """How to write the rule, such as `soft:COSINE`."""
        return self.name if self.value_name is None else f"{self.name}:{self.value_name.upper()}"


KNOWN_RULES: dict[str, RuleKind] = {
    kind.name: kind
    for kind in (
        RuleKind("bp", "backpropagation", _backpropagation),
        RuleKind("fa", "random feedback", _random_feedback),
        RuleKind("soft", "soft alignment", _soft_alignment, "cosine", 0.5, (-1.0, 1.0)),
    )
}


def split_rule(spec: str) -> tuple[RuleKind, float | None]:
    """Read a rule spec.

    Args:
        spec: such as `bp`, `fa` or `soft:0.5`.

    Returns:
        The kind of rule and its value (None for a rule that takes none).

    Raises:
        ValueError: the rule is unknown, or its value is missing, superfluous or out of bounds.
    """
    name, colon, text = spec.strip().partition(":")
    kind = KNOWN_RULES.get(name)
    if kind is None:
        known = ", ".join(f"{k.usage} ({k.title})" for k in KNOWN_RULES.values())
        raise ValueError(f"unknown learning rule {spec!r}; known are {known}")
    if kind.value_name is None:
        if colon:
            raise ValueError(f"learning rule {name!r} takes no value, got {spec!r}")
        return kind, None
    if not colon:
        return kind, kind.default
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{kind.value_name} of {kind.usage} must be a number, got {spec!r}") from None
    if kind.bounds is not None and not kind.bounds[0] <= value <= kind.bounds[1]:
        low, high = kind.bounds
        raise ValueError(f"{kind.value_name} of {kind.usage} must be in [{low:g}, {high:g}], got {spec!r}")
    return kind, value


def canonical_rule(spec: str) -> str:
    """Return the one way to write a rule spec: `soft` and `soft:0.50` both become `soft:0.5`.

    Args:
        spec: any spec that `split_rule` reads.

    Returns:
        The canonical spec.
    """
    kind, value = split_rule(spec)
    return kind.name if value is None else f"{kind.name}:{value!r}".removesuffix(".0")


def parse_rule(spec: str, seed: int) -> LearningRule:
    """Make the learning rule that a spec names.

    Args:
        spec: such as `bp`, `fa` or `soft:0.5`.
        seed: the seed of the rule's feedback weights.

    Returns:
        The learning rule, ready for `set_learning_rule`.
    """
    kind, value = split_rule(spec)
    return kind.build(value, seed)
