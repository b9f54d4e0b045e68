"""A made-up study with all that a report can show, and names that are not nice."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from alignonce.experiments.claims import Claim, Finding, Verdict
from alignonce.experiments.facts import Fact, Facts
from alignonce.experiments.report import ReportContent
from alignonce.experiments.runs.records import Environment
from alignonce.experiments.setting import Setting
from alignonce.experiments.studies.study import Study

NASTY = "<script>alert(1)</script>"
RULES = ("bp", "fa", "soft:0.5", "soft:1", "kp:0.001")
SEEDS = (0, 1, 2)
DEPTHS = (2, 20, 30)
LAYERS = tuple(f"layers.{n}" for n in range(2, 12, 2))
# How well a rule does, from 0 (random feedback) to 1 (backpropagation).
QUALITY = {"bp": 1.0, "fa": 0.0, "soft:0.5": 0.8, "soft:1": 0.97, "kp:0.001": 0.9}


def made_study() -> Study:
    return Study.model_validate(
        {
            "name": "made-up",
            "title": f"Does it hold {NASTY} & \"how\" 'well'?",
            "seeds": SEEDS,
            "parts": [
                {"name": "main", "title": f"Ten layers {NASTY}", "rules": RULES,
                 "train": {"data": "/data/</script><script>alert(2)</script>|x"}},
                {"name": "depth", "title": "Depth", "rules": RULES,
                 "vary": {"depth": DEPTHS, "init": ("he", "glorot")}},
            ],
        }
    )  # fmt: skip


def made_content(study: Study | None = None) -> ReportContent:
    study = made_study() if study is None else study
    claims = made_claims()
    return ReportContent(
        study=study,
        facts=Facts(made_facts()),
        claims=claims,
        findings=list(made_findings(claims)),
        environments=[
            Environment(
                time="2026-11-24T10:00:00+00:00", device="cpu", alignonce="0.1.0", python="3.11.2",
                torch="2.13.0", numpy="2.4.6", platform="Linux-6.1-x86_64",
                cpu="A processor, 2 cores", threads=1,
            )
        ],
        commands=["alignonce study run made-up.yaml --out 'runs/<b>x</b>'", "alignonce report runs/made-up"],
        failures={"main: fa, seed 2": f"ValueError: {NASTY}"},
    )  # fmt: skip


def made_claims() -> list[Claim]:
    return [
        Claim(
            "accuracy-near-bp", "Accuracy",
            "“Soft alignment” at initialisation alone reaches accuracy comparable to backpropagation.",
            "Test accuracy less that of backpropagation, at the end of training.",
            "difference of test accuracy", -2.0, "points", baseline="bp",
        ),
        Claim(
            "fa-fails", "Accuracy", "Random feedback fails in deep networks.",
            "Test accuracy of backpropagation less that of the rule.", "difference of test accuracy", 5.0,
            "points", baseline="bp",
        ),
        Claim(
            "flatter", "Curvature", "Solutions of soft alignment are flatter: smaller largest eigenvalue.",
            "Largest eigenvalue of the Hessian of the training loss, over that of random feedback.",
            "ratio of largest eigenvalues", 1.0, "", side="below", kind="ratio", baseline="bp",
        ),
        Claim(
            "rises", "Accuracy", "Accuracy rises with cosine.", "Order of cosines and of accuracies.",
            "rank correlation of cosine and accuracy", 0.0, "", kind="rank correlation",
        ),
        Claim(
            "unmeasured", "Curvature", "Sharpness is small.", "Sharpness.", "ratio of sharpness", 1.0, "",
        ),
        Claim(
            "alone", "Robustness", "Soft alignment withstands corruption.",
            "Mean accuracy under corruption.", "difference of accuracy", 0.0, "points",
        ),
    ]  # fmt: skip


def made_findings(claims: list[Claim]) -> Iterator[Finding]:
    """One finding for each claim, place and rule; one has a single seed, and so no interval."""
    rng = np.random.default_rng(0)
    for claim in claims[:3]:
        for part, cell in (("main", ""), ("depth", "depth=20 init=he")):
            for rule in RULES[1:]:
                bad = 1 - QUALITY[rule]
                centre = {"accuracy-near-bp": -12 * bad, "fa-fails": 12 * bad, "flatter": 0.4 + 1.2 * bad}
                spread = 0.15 if claim.id == "flatter" else 1.0
                values = {seed: float(centre[claim.id] + rng.normal(0, spread)) for seed in SEEDS}
                mean = float(np.mean(list(values.values())))
                yield Finding(
                    claim.id, part, cell, rule, "bp", mean, mean - spread, mean + spread, values,
                    *_judged(claim, mean - spread, mean + spread), NASTY if rule == "kp:0.001" else "",
                )  # fmt: skip
    yield Finding(
        "rises", "main", "", "soft", None, 0.8, math.nan, math.nan, {0: 0.8}, "inconclusive",
        note="one seed decides nothing",
    )  # fmt: skip


def _judged(claim: Claim, low: float, high: float) -> tuple[Verdict, int | None]:
    if low <= claim.threshold <= high:
        return "inconclusive", 12
    return "supported" if (low > claim.threshold) == (claim.side == "above") else "not supported", None


def made_facts() -> Iterator[Fact]:
    """Facts of all runs but the one that failed; random feedback at 30 layers diverges with seed 1."""
    for part, cell, depth in [
        ("main", "", 10),
        *(("depth", f"depth={d} init={i}", d) for d in DEPTHS for i in ("he", "glorot")),
    ]:
        for seed in SEEDS:
            for rule in RULES:
                if (part, rule, seed) != ("main", "fa", 2):
                    diverged = (cell, rule, seed) == ("depth=30 init=he", "fa", 1)
                    yield from _run(part, cell, depth, rule, seed, diverged)
    for seed in SEEDS:
        for rule in RULES:
            if (rule, seed) != ("fa", 2):
                yield from _measures(rule, seed)


def _run(part: str, cell: str, depth: int, rule: str, seed: int, diverged: bool) -> Iterator[Fact]:
    rng = np.random.default_rng([seed, depth, RULES.index(rule)])
    quality = QUALITY[rule]
    final = 0.1 if diverged else 0.88 - 0.015 * depth * (1 - quality) + rng.normal(0, 0.004)

    def fact(measure: str, value: float, item: str = "", setting: str = "", images: int = 10_000) -> Fact:
        return Fact(
            part=part, cell=cell, rule=rule, seed=seed, group="run", measure=measure, item=item,
            setting=Setting.parse(setting), images=images, value=float(value),
        )  # fmt: skip

    yield fact("test_accuracy", final)
    yield fact("test_loss", math.nan if diverged else 1 - final)
    yield fact("diverged", diverged, images=0)
    for step in range(13):
        epoch = step / 2
        yield fact("test_accuracy", 0.1 + (final - 0.1) * (1 - math.exp(-epoch)), setting=f"epoch={epoch:g}")
        if rule != "bp":
            for n, layer in enumerate(LAYERS):
                angle = 90 * (1 - quality) ** 0.5 + (3 + n) * (1 - math.exp(-epoch)) * (1 - quality)
                yield fact("angle_deg", angle + rng.normal(0, 0.3), layer, f"epoch={epoch:g}", 0)


def _measures(rule: str, seed: int) -> Iterator[Fact]:
    rng = np.random.default_rng([seed, RULES.index(rule), 7])
    bad = 1 - QUALITY[rule]

    def fact(
        group: str, measure: str, value: float, item: str = "", setting: str = "", images: int = 200
    ) -> Fact:
        return Fact(
            part="main", rule=rule, seed=seed, group=group, measure=measure, item=item,
            setting=Setting.parse(setting), images=images, value=float(value * rng.uniform(0.9, 1.1)),
        )  # fmt: skip

    for number, layer in enumerate(reversed(("layers.0", *LAYERS))):
        yield fact("flow", "flow.weight_norms", 0.1, layer, "route=rule")
        if layer != "layers.0":
            yield fact("flow", "flow.input_norms", 0.02 * math.exp(-bad * number), layer, "route=rule")
    yield fact("flow", "flow.input_log_variance", 0.1 + 2 * bad, "", "route=rule")
    yield fact("curvature", "eigenvalue", 20 + 200 * bad, "", "rank=1 products=40", 256)
    yield fact("curvature", "eigenvalue", 10 + 100 * bad, "", "rank=2 products=40", 256)
    yield fact("curvature", "trace", 300 + 4000 * bad, "", "products=40", 256)
    yield fact("curvature", "sharpness", 0.02 + 0.3 * bad, "", "radius=0.05", 256)
    yield fact("generalisation", "accuracy_gap", 0.03 + 0.02 * bad, "", "", 10_000)
    yield fact("generalisation", "loss_gap", 0.2 + 0.2 * bad, "", "", 10_000)
    yield fact("generalisation", "calibration_error", 0.05, "", "", 10_000)
    yield fact("generalisation", "ood_auroc", 0.8, "digits", "", 10_000)
    yield fact("adversarial", "accuracy", 0.85, "none", "eps=0")
    for route, attack in (("exact", "pgd"), ("feedback", "pgd"), ("black-box", "square")):
        if rule != "bp" or route != "feedback":
            for radius in (2, 4, 8, 16):
                blind = 0.2 if route == "feedback" else 1
                value = 0.85 * math.exp(-blind * radius / (6 + 3 * bad))
                yield fact(
                    "adversarial",
                    "accuracy",
                    value,
                    attack,
                    f"route={route} eps={radius / 255:.6g} norm=linf",
                )
    yield fact("corruptions", "accuracy", 0.85, "none", "severity=0", 500)
    for kind in ("gaussian_noise", "fog"):
        for severity in range(1, 6):
            yield fact(
                "corruptions",
                "accuracy",
                0.85 - 0.1 * severity * (0.7 + 0.5 * bad),
                kind,
                f"severity={severity}",
                500,
            )
    yield fact("weights", "accuracy", 0.85, "none", "level=0 draw=0", 1000)
    for level in (0.1, 0.3, 0.5):
        yield fact(
            "weights", "accuracy", 0.85 - level * (0.5 + bad / 3), "noise", f"level={level:g} draw=0", 1000
        )
