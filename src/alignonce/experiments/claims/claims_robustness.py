"""Claims about what trained networks withstand: corrupted images and adversarial attacks."""

from __future__ import annotations

from collections.abc import Iterator

from alignonce.experiments.claims.claims_solutions import NAMES
from alignonce.experiments.claims.numbers import Place, Quantity, find_all, places_of, seeds_of
from alignonce.experiments.claims.questions import Answer, Claim, Question, compared, others
from alignonce.experiments.claims.samples import Samples, Term, weighted_sum
from alignonce.experiments.facts import USUAL_EPS, Facts
from alignonce.experiments.setting import Setting

_CORRUPTED = Quantity("corruptions", "mean_accuracy", share_of_images=True)
_CLEAN = Quantity("corruptions", "accuracy", "none", share_of_images=True)


def _corruption(baseline: str) -> tuple[Question, Question]:
    name = NAMES[baseline]
    return (
        compared(
            Claim(
                f"corruptions-above-{baseline}", "Corruptions",
                f"“Better … robustness”: more accurate on corrupted images than {name}.",
                f"Mean test accuracy over corruptions and severities, less that of {name}.",
                "difference of accuracy under corruptions", 0.0, "points", "above", "difference", baseline,
            ),
            _CORRUPTED, factor=100,
        ),
        compared(
            Claim(
                f"corruptions-retained-above-{baseline}", "Corruptions",
                f"“Better … robustness”: keeps more of its clean accuracy under corruptions than {name}.",
                "Mean accuracy under corruptions divided by that on the same images without, divided by the "
                f"same of {name}.",
                "ratio of the shares of accuracy that are kept", 1.0, "", "above", "ratio", baseline,
            ),
            _CORRUPTED, relative_to=_CLEAN,
        ),
    )  # fmt: skip


def _attacked(claim: Claim, attack: str, route: str) -> Question:
    """Accuracy under an attack, at the measured radius nearest to the usual one, less the baseline's."""

    def answers(facts: Facts) -> Iterator[Answer]:
        for place in places_of(facts):
            for rule in others(facts, place, claim.baseline):
                rules = (rule, str(claim.baseline))
                radii = set.intersection(*(_radii(facts, place, name, attack, route) for name in rules))
                if not radii:
                    continue
                eps = min(radii, key=lambda eps: abs(eps - USUAL_EPS))
                quantity = Quantity("adversarial", "accuracy", attack, Setting.of(route=route, eps=eps), True)
                terms = [Term(w, place, name, quantity) for w, name in zip((100, -100), rules, strict=True)]
                samples = weighted_sum(facts, terms)
                if samples is not None:
                    radius = f"at eps {255 * eps:.3g}/255"
                    notes = (radius, *_masking(facts, place, rule, route), *samples.notes)
                    yield Answer(place, rule, Samples(samples.values, samples.noise, notes))

    return Question(claim, answers)


def _radii(facts: Facts, place: Place, rule: str, attack: str, route: str) -> set[float]:
    quantity = Quantity("adversarial", "accuracy", attack, setting=Setting.of(route=route))
    return {
        fact.setting.number("eps")
        for seed in seeds_of(facts, place, rule)
        for fact in find_all(facts, place, rule, seed, quantity)
    }


def _masking(facts: Facts, place: Place, rule: str, route: str) -> tuple[str, ...]:
    """What the analysis says against numbers by gradients; the black box needs none."""
    if route == "black-box":
        return ()
    found = {
        seed: find_all(facts, place, rule, seed, Quantity("adversarial", "masking"))
        for seed in seeds_of(facts, place, rule)
    }
    first = [next(iter(own)) for own in found.values() if len(own)]
    masked = [fact.setting for fact in first if fact.value == 1]
    if not masked:
        return ()
    return (
        f"gradient masking in {len(masked)} of {len(first)} runs, so that this number flatters the rule; "
        f"for one, {masked[0]}",
    )


def _adversarial(name: str, how: str, measured: str, attack: str, route: str) -> Question:
    return _attacked(
        Claim(
            f"{name}-above-bp", "Adversarial attacks",
            f"It “can improve adversarial robustness compared to standard backpropagation”: {how}",
            measured + " Less that of backpropagation.", "difference of accuracy under attack", 0.0, "points",
            "above", "difference", "bp",
        ),
        attack, route,
    )  # fmt: skip


ROBUSTNESS_QUESTIONS = (
    *_corruption("fa"),
    *_corruption("bp"),
    _adversarial(
        "pgd-exact", "PGD by the exact gradients.",
        "Accuracy that PGD leaves when it follows the network's exact gradients: the honest attack, as far "
        "as gradients go.",
        "pgd", "exact",
    ),
    _adversarial(
        "pgd-feedback", "PGD by the feedback weights.",
        "Accuracy that PGD leaves when it follows the gradients that come through the feedback weights. They "
        "mislead the attacker, so that this shows an attacker's weakness, not the network's strength.",
        "pgd", "feedback",
    ),
    _adversarial(
        "square", "Square, a black-box attack.",
        "Accuracy that Square leaves, which tries random patches and needs no gradients: nothing is masked.",
        "square", "black-box",
    ),
)  # fmt: skip
