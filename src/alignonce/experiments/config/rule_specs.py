"""Learning rules as short strings for humans: `bp`, `fa`, `soft:0.5`. Every known rule is listed here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from alignonce import (
    Backpropagation,
    DirectFeedback,
    KolenPollack,
    LearningRule,
    PeriodicAlignment,
    RandomFeedback,
    SignSymmetry,
    SoftAlignment,
    WeightMirror,
)


class RuleValue(NamedTuple):
    """A number that a spec may give after a colon."""

    name: str
    default: float
    low: float
    high: float
    whole: bool = False
    """Whether it must be a whole number."""


@dataclass(frozen=True)
class RuleKind:
    """One known rule: its name in a spec, what it means, its colour, and how to make it.

    `build` takes the seed and the rule's values, in the order in which a spec gives them; those that are left
    out take their defaults. The colours are after Okabe and Ito, safe for colour-blind eyes.
    """

    name: str
    title: str
    color: str
    build: Callable[..., LearningRule]
    values: tuple[RuleValue, ...] = ()

    @property
    def usage(self) -> str:
        """How to write the rule, such as `soft:COSINE`."""
        return ":".join([self.name, *(value.name.upper() for value in self.values)])


_COSINE = RuleValue("cosine", 0.5, -1, 1)
_FULL_COSINE = RuleValue("cosine", 1, -1, 1)

_KINDS = (
    RuleKind("bp", "backpropagation", "#000000", lambda seed: Backpropagation()),
    RuleKind("fa", "random feedback", "#D55E00", RandomFeedback),
    RuleKind(
        "soft", "soft alignment", "#3A8AC4",
        lambda seed, cosine: SoftAlignment(cosine, seed), (_COSINE,),
    ),
    RuleKind(
        "periodic", "periodic alignment", "#66A61E",
        lambda seed, every: PeriodicAlignment(int(every), 1.0, seed),
        (RuleValue("every", 100, 1, 1e9, whole=True),),
    ),
    RuleKind("usf", "sign symmetry, equal", "#E69F00", lambda seed: SignSymmetry("uniform", False, seed)),
    RuleKind("frsf", "sign symmetry, fixed", "#B8860B", lambda seed: SignSymmetry("fixed", False, seed)),
    RuleKind("brsf", "sign symmetry, batch", "#F5C242", lambda seed: SignSymmetry("batch", False, seed)),
    RuleKind("sign", "signs of W once", "#7A5C00", lambda seed: SignSymmetry("uniform", True, seed)),
    RuleKind(
        "kp", "Kolen-Pollack", "#009E73",
        lambda seed, decay: KolenPollack(decay, start=RandomFeedback(seed)),
        (RuleValue("decay", 1e-3, 0, 0.999),),
    ),
    RuleKind(
        "mirror", "weight mirror", "#CC79A7",
        lambda seed: WeightMirror(seed=seed, start=RandomFeedback(seed)),
    ),
    # The recipes for transformers, whose weights move fast: see docs/transformers.md.
    RuleKind(
        "soft-kp", "soft start, Kolen-Pollack", "#66C2A5",
        lambda seed, cosine, decay: KolenPollack(decay, start=SoftAlignment(cosine, seed)),
        (_COSINE, RuleValue("decay", 0, 0, 0.999)),
    ),
    RuleKind(
        "soft-mirror", "soft start, weight mirror", "#8E4585",
        lambda seed, cosine, every: WeightMirror(
            every=int(every), rate=0.2, seed=seed, start=SoftAlignment(cosine, seed)
        ),
        (_FULL_COSINE, RuleValue("every", 2, 1, 1e9, whole=True)),
    ),
    RuleKind("dfa", "direct feedback", "#6A3D9A", lambda seed: DirectFeedback(seed=seed)),
)  # fmt: skip
KNOWN_RULES: dict[str, RuleKind] = {kind.name: kind for kind in _KINDS}


def split_rule(spec: str) -> tuple[RuleKind, tuple[float, ...]]:
    """Read a rule spec.

    Args:
        spec: such as `bp`, `fa` or `soft:0.5`.

    Returns:
        The kind of rule and its values, those that the spec leaves out included.

    Raises:
        ValueError: the rule is unknown, or a value is superfluous, no number or out of bounds.
    """
    name, *texts = spec.strip().split(":")
    kind = KNOWN_RULES.get(name)
    if kind is None:
        known = ", ".join(f"{k.usage} ({k.title})" for k in KNOWN_RULES.values())
        raise ValueError(f"unknown learning rule {spec!r}; known are {known}")
    if len(texts) > len(kind.values):
        takes = f"takes no more than {kind.usage}" if kind.values else "takes no value"
        raise ValueError(f"learning rule {name!r} {takes}, got {spec!r}")
    given = [_read(text, value, kind, spec) for text, value in zip(texts, kind.values, strict=False)]
    return kind, (*given, *(value.default for value in kind.values[len(given) :]))


def _read(text: str, value: RuleValue, kind: RuleKind, spec: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{value.name} of {kind.usage} must be a number, got {spec!r}") from None
    if not value.low <= number <= value.high:
        raise ValueError(
            f"{value.name} of {kind.usage} must be in [{value.low:g}, {value.high:g}], got {spec!r}"
        )
    if value.whole and not number.is_integer():
        raise ValueError(f"{value.name} of {kind.usage} must be a whole number, got {spec!r}")
    return number


def canonical_rule(spec: str) -> str:
    """Return the one way to write a rule spec: `soft` and `soft:0.50` both become `soft:0.5`.

    The first value is always written, further ones only as far as they are not the defaults.

    Args:
        spec: any spec that `split_rule` reads.

    Returns:
        The canonical spec.
    """
    kind, values = split_rule(spec)
    while len(values) > 1 and values[-1] == kind.values[len(values) - 1].default:
        values = values[:-1]
    return ":".join([kind.name, *(f"{value!r}".removesuffix(".0") for value in values)])


def parse_rule(spec: str, seed: int) -> LearningRule:
    """Make the learning rule that a spec names.

    Args:
        spec: such as `bp`, `fa` or `soft:0.5`.
        seed: the seed of the rule's feedback weights.

    Returns:
        The learning rule, ready for `set_learning_rule`.
    """
    kind, values = split_rule(spec)
    return kind.build(seed, *values)


def has_fixed_feedback(spec: str) -> bool:
    """Return whether a rule has one fixed feedback weight for each layer, which can be compressed.

    Args:
        spec: such as `bp`, `fa` or `soft:0.5`.

    Returns:
        False for backpropagation, direct feedback and rules whose feedback weights change.
    """
    rule = parse_rule(spec, 0)
    return rule.has_layer_feedback and not rule.evolves


ALL_COSINES = "soft"
"""The rule of a finding that takes random feedback and all cosines of soft alignment together."""
