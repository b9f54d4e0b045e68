"""Made-up numbers of a study, in which every claim can be made to hold or to fail."""

import numpy as np

from alignonce.experiments.facts import Fact, Facts
from alignonce.experiments.setting import Setting

RULES = ("bp", "fa", "soft:0.25", "soft:0.5", "soft:1")


def full_evidence(good: bool = True, seeds: int = 3, drop=lambda fact: False) -> Facts:
    """Soft alignment is as the claims say, with little spread; or, if not `good`, the other way round."""
    facts = [
        fact
        for cell, deep in (("depth=2", False), ("depth=30", True))
        for seed in range(seeds)
        for rule in RULES
        for fact in _of_run(cell, deep, rule, seed, good)
    ]
    facts += [
        _fact("text", "", rule, seed, "run", "test_bits_per_byte", bits + 0.01 * seed)
        for rule, bits in {"bp": 3.1, "fa": 3.9, "dfa": 3.8, "soft:0.5": 3.2 if good else 4.1}.items()
        for seed in range(seeds)
    ]
    return Facts(fact for fact in facts if not drop(fact))


def _fact(part, cell, rule, seed, group, measure, value, item="", setting="", images=0) -> Fact:
    return Fact(
        part=part, cell=cell, rule=rule, seed=seed, group=group, measure=measure, item=item,
        setting=Setting.parse(setting), images=images, value=value,
    )  # fmt: skip


def _of_run(cell, deep, rule, seed, good):
    wiggle = 0.001 * np.sin(17 * seed + 5 * RULES.index(rule))
    # 1: as good as a claim wants it; 0: as random feedback ought to be
    quality = {"bp": 0.5 if good else 0.9, "fa": 0.0 if good else 1.0}.get(rule, 1.0 if good else 0.0)
    if good:
        accuracy = {"bp": 0.9, "fa": 0.3 if deep else 0.8, "soft:0.25": 0.86}.get(rule, 0.9)
        accuracy += {"soft:0.5": 0.0, "soft:1": 0.01}.get(rule, 0)
    else:
        accuracy = {
            "bp": 0.9, "fa": 0.91 if deep else 0.8, "soft:0.25": 0.7 if deep else 0.8, "soft:0.5": 0.6,
            "soft:1": 0.5,
        }[rule]  # fmt: skip
        accuracy -= 0.1 if deep and rule.startswith("soft") else 0
        # Steeper from the middle to 1 than from 0 to the middle would be a rise late.
        accuracy -= 0.25 if rule == "soft:1" else 0

    def fact(group, measure, value, item="", setting="", images=0):
        return _fact("made", cell, rule, seed, group, measure, float(value + wiggle), item, setting, images)

    yield fact("run", "test_accuracy", accuracy, images=100_000)
    yield fact("run", "test_accuracy", accuracy - 0.05, setting="epoch=1", images=100_000)
    yield fact("run", "cosine", 0.7, "net.1", "epoch=0")
    yield fact("run", "cosine", 0.69 if good else 0.3, "net.1", "epoch=2")
    small = 10 - 8 * quality
    for rank in (1, 2):
        setting = f"rank={rank} products=40"
        yield fact("curvature", "eigenvalue", small if rank == 1 else 1.0, setting=setting)
    yield fact("curvature", "trace", small, setting="products=40")
    yield fact("curvature", "sharpness", small, setting="radius=0.05")
    yield fact("curvature", "adaptive_sharpness", small, setting="radius=0.5")
    yield fact("flow", "flow.input_log_variance", small, setting="route=rule")
    yield fact("flow", "flow.input_log_variance", 1.0, setting="route=exact")
    yield fact("landscape", "line_barrier", small, "bp")
    for measure in ("accuracy_gap", "loss_gap", "calibration_error"):
        yield fact("generalisation", measure, small)
    yield fact("corruptions", "accuracy", 0.95, "none", "severity=0", 100_000)
    yield fact("corruptions", "mean_accuracy", 0.3 + 0.4 * quality, images=100_000)
    for route, attack in (("exact", "pgd"), ("feedback", "pgd"), ("black-box", "square")):
        for eps, value in (("0.0313725", 0.2 + 0.4 * quality), ("0.0627451", 0.1)):
            setting = f"route={route} eps={eps} norm=linf"
            yield fact("adversarial", "accuracy", value, attack, setting, 100_000)


def accuracies(values, images=0, correct=None, extra=()) -> Facts:
    """Test accuracies alone: by rule, one for each seed."""
    return Facts(
        [
            *(
                made_fact(rule, seed, "run", "test_accuracy", value, images=images)
                for rule, row in values.items()
                for seed, value in enumerate(row)
            ),
            *extra,
        ],
        correct,
    )


def made_fact(rule, seed, group, measure, value, item="", setting="", images=0) -> Fact:
    return _fact("made", "", rule, seed, group, measure, value, item, setting, images)
