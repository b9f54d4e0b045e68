"""Learning rules as short strings for humans: `bp`, `fa`, `soft:0.5`. Every known rule is listed here."""

from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(frozen=True)
class RuleKind:
    """One known rule: its name in a spec, what it means, its colour, and how to make it.

    A rule with a `value_name` takes one number after a colon, within `bounds`, `default` if it is left out;
    others are given the value 0. The colours are after Okabe and Ito, safe for colour-blind eyes.
    """

    name: str
    title: str
    color: str
    build: Callable[[float, int], LearningRule]
    value_name: str | None = None
    default: float = 0.0
    bounds: tuple[float, float] = (0.0, 0.0)

    @property
    def usage(self) -> str:
        """How to write the rule, such as `soft:COSINE`."""
        return self.name if self.value_name is None else f"{self.name}:{self.value_name.upper()}"


_KINDS = (
    RuleKind("bp", "backpropagation", "#000000", lambda _, seed: Backpropagation()),
    RuleKind("fa", "random feedback", "#D55E00", lambda _, seed: RandomFeedback(seed)),
    RuleKind("soft", "soft alignment", "#3A8AC4", SoftAlignment, "cosine", 0.5, (-1, 1)),
    RuleKind(
        "periodic", "periodic alignment", "#66A61E",
        lambda every, seed: PeriodicAlignment(int(every), 1.0, seed), "every", 100, (1, 1e9),
    ),
    RuleKind("usf", "sign symmetry, equal", "#E69F00", lambda _, seed: SignSymmetry("uniform", False, seed)),
    RuleKind("frsf", "sign symmetry, fixed", "#B8860B", lambda _, seed: SignSymmetry("fixed", False, seed)),
    RuleKind("brsf", "sign symmetry, batch", "#F5C242", lambda _, seed: SignSymmetry("batch", False, seed)),
    RuleKind("sign", "signs of W once", "#7A5C00", lambda _, seed: SignSymmetry("uniform", True, seed)),
    RuleKind(
        "kp", "Kolen-Pollack", "#009E73",
        lambda decay, seed: KolenPollack(decay, start=RandomFeedback(seed)), "decay", 1e-3, (0, 0.999),
    ),
    RuleKind(
        "mirror", "weight mirror", "#CC79A7",
        lambda _, seed: WeightMirror(seed=seed, start=RandomFeedback(seed)),
    ),
    # The recipe for transformers, whose weights move fast: see docs/transformers.md.
    RuleKind(
        "soft-mirror", "soft start, weight mirror", "#8E4585",
        lambda cosine, seed: WeightMirror(every=2, rate=0.2, seed=seed, start=SoftAlignment(cosine, seed)),
        "cosine", 1, (-1, 1),
    ),
    RuleKind("dfa", "direct feedback", "#6A3D9A", lambda _, seed: DirectFeedback(seed=seed)),
)  # fmt: skip
KNOWN_RULES: dict[str, RuleKind] = {kind.name: kind for kind in _KINDS}


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
    low, high = kind.bounds
    if not low <= value <= high:
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
    return kind.build(0.0 if value is None else value, seed)


def has_fixed_feedback(spec: str) -> bool:
    """Tell whether a rule has one fixed feedback weight for each layer, which can be compressed.

    Args:
        spec: such as `bp`, `fa` or `soft:0.5`.

    Returns:
        False for backpropagation, direct feedback and rules whose feedback weights change.
    """
    rule = parse_rule(spec, 0)
    return not (rule.evolves or isinstance(rule, Backpropagation | DirectFeedback))
