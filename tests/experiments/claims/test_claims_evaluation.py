"""Verdicts on made-up results whose verdict is known."""

import math

import numpy as np
import pytest

from alignonce.experiments.claims import CLAIMS, evaluate
from alignonce.experiments.config.rule_specs import ALL_COSINES
from helpers.made_evidence import accuracies, full_evidence, made_fact


def found(evidence, claim, rule="soft:0.5", cell=None):
    matches = [
        f
        for f in evaluate(evidence, resamples=500)
        if f.claim == claim and f.rule == rule and cell in (None, f.cell)
    ]
    return matches[-1] if matches else None


@pytest.fixture(scope="module")
def findings():
    return {good: evaluate(full_evidence(good), resamples=500) for good in (True, False)}


def judged_rule(claim):
    if claim.startswith("fa-"):
        return "fa"
    return ALL_COSINES if claim in ("accuracy-rises-with-cosine", "accuracy-saturates") else "soft:0.5"


@pytest.mark.parametrize("claim", [claim.id for claim in CLAIMS])
@pytest.mark.parametrize(("good", "verdict"), [(True, "supported"), (False, "not supported")])
def test_every_claim_is_supported_or_not_as_the_numbers_are(findings, claim, good, verdict):
    # The last is the deepest cell.
    (*_, finding) = [f for f in findings[good] if f.claim == claim and f.rule == judged_rule(claim)]
    assert finding.verdict == verdict, finding
    assert finding.low <= finding.estimate <= finding.high
    assert finding.seeds_needed is None


def test_ids_of_claims_are_unique():
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)


def test_no_rule_is_compared_with_itself(findings):
    assert all(f.rule != f.baseline for f in findings[True])


def test_a_claim_without_its_baseline_is_absent():
    ids = {f.claim for f in evaluate(full_evidence(drop=lambda fact: fact.rule == "fa"), resamples=100)}
    assert "accuracy-near-bp" in ids
    assert not {"accuracy-above-fa", "fa-fails-deep", "hessian-trace-below-fa"} & ids


def test_a_measure_that_was_not_taken_gives_no_finding():
    evidence = full_evidence(drop=lambda fact: fact.group == "curvature")
    assert found(evidence, "hessian-trace-below-fa") is None


def test_a_language_model_is_judged_by_bits_alone():
    evidence = full_evidence(drop=lambda fact: fact.measure != "test_bits_per_byte")
    ids = {f.claim for f in evaluate(evidence, resamples=100)}
    assert ids == {"bits-near-bp", "bits-below-fa", "bits-below-dfa"}


def test_wide_spread_is_inconclusive_with_the_seeds_that_would_decide():
    # mean +2, deviation 4: t(16 - 1) * 4 / sqrt(n) < 2 first for n = 18.
    evidence = accuracies({"fa": [0.5, 0.5, 0.5], "soft:0.5": [0.48, 0.52, 0.56]})
    finding = found(evidence, "accuracy-above-fa")
    assert finding.verdict == "inconclusive"
    assert finding.estimate == pytest.approx(2)
    assert finding.seeds_needed == 18


def test_no_number_of_seeds_is_named_if_a_thousand_would_not_do():
    finding = found(accuracies({"fa": [0.5] * 3, "soft:0.5": [0.4, 0.5, 0.6001]}), "accuracy-above-fa")
    assert finding.seeds_needed is None
    assert "more than 1000 seeds" in finding.note


def test_one_seed_decides_nothing():
    finding = found(accuracies({"fa": [0.1], "soft:0.5": [0.9]}), "accuracy-above-fa")
    assert finding.verdict == "inconclusive"
    assert finding.estimate == pytest.approx(80)
    assert math.isnan(finding.low)
    assert "one seed decides nothing" in finding.note


def test_few_images_can_leave_open_what_seeds_agree_on():
    values = {"fa": [0.5, 0.5, 0.5], "soft:0.5": [0.52, 0.521, 0.522]}
    assert found(accuracies(values), "accuracy-above-fa").verdict == "supported"
    finding = found(accuracies(values, images=50), "accuracy-above-fa")
    assert finding.verdict == "inconclusive"
    assert finding.seeds_needed is None
    assert "test images" in finding.note


def test_a_diverged_run_counts_as_chance_and_is_named():
    extra = [made_fact("fa", 1, "run", "diverged", 1.0)]
    evidence = accuracies({"fa": [0.5, 0.1, 0.5], "soft:0.5": [0.8, 0.8, 0.8]}, extra=extra)
    finding = found(evidence, "accuracy-above-fa")
    assert finding.per_seed[1] == pytest.approx(70)
    assert "fa, seed 1, diverged" in finding.note


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0, None])
def test_a_seed_without_a_usable_number_is_left_out_and_named(value):
    facts = [
        made_fact(rule, seed, "curvature", "trace", number, setting="products=40")
        for rule, row in {"fa": [10, 11, value, 12], "soft:0.5": [1.0, 1.1, 1.0, 1.2]}.items()
        for seed, number in enumerate(row)
        if number is not None
    ]
    finding = found(accuracies({}, extra=facts), "hessian-trace-below-fa")
    assert list(finding.per_seed) == [0, 1, 3]
    assert "seed 2 left out: trace of fa" in finding.note
    assert finding.verdict == "supported"


def test_a_claim_whose_every_seed_is_left_out_is_inconclusive():
    facts = [made_fact("fa", s, "curvature", "trace", math.inf) for s in range(3)]
    facts += [made_fact("soft:0.5", s, "curvature", "trace", 1.0) for s in range(3)]
    finding = found(accuracies({}, extra=facts), "hessian-trace-below-fa")
    assert finding.verdict == "inconclusive"
    assert math.isnan(finding.estimate)
    assert "no seed" in finding.note


def test_a_ratio_is_the_geometric_mean_of_the_seeds():
    facts = [
        made_fact(rule, seed, "curvature", "trace", value)
        for rule, row in {"fa": [4.0, 1.0], "soft:0.5": [1.0, 1.0]}.items()
        for seed, value in enumerate(row)
    ]
    finding = found(accuracies({}, extra=facts), "hessian-trace-below-fa")
    assert finding.estimate == pytest.approx(0.5)
    assert finding.per_seed == pytest.approx({0: 0.25, 1: 1.0})


def test_ratios_far_apart_do_not_overflow():
    facts = [
        made_fact(rule, seed, "curvature", "trace", value)
        for rule, row in {"fa": [1e150, 1e-150], "soft:0.5": [1.0, 1.0]}.items()
        for seed, value in enumerate(row)
    ]
    finding = found(accuracies({}, extra=facts), "hessian-trace-below-fa")
    assert finding.verdict == "inconclusive"
    assert finding.high == math.inf


def test_rank_correlation_is_that_within_each_seed():
    # Ranks 1 2 3 4 and 1 3 2 4: 1 - 6 * 2 / (4 * 15).
    seeds = {"fa": [0.1, 0.4], "soft:0.25": [0.3, 0.3], "soft:0.5": [0.2, 0.2], "soft:1": [0.4, 0.1]}
    finding = found(accuracies(seeds), "accuracy-rises-with-cosine", ALL_COSINES)
    assert finding.per_seed == pytest.approx({0: 0.8, 1: -1})


def test_saturation_is_a_difference_of_slopes():
    rules = {"fa": [0.1] * 2, "soft:0.25": [0.4] * 2, "soft:1": [0.7] * 2}
    # 30 points in 0.25 are 120 per unit, 30 in 0.75 are 40.
    finding = found(accuracies(rules), "accuracy-saturates", ALL_COSINES)
    assert finding.estimate == pytest.approx(80)


def test_masking_is_said_of_attacks_by_gradients_only():
    facts = []
    for rule in ("bp", "soft:0.5"):
        for seed in range(2):
            for attack, route in (("pgd", "exact"), ("square", "black-box")):
                setting = f"route={route} eps=0.0313725 norm=linf"
                facts.append(made_fact(rule, seed, "adversarial", "accuracy", 0.3, attack, setting, 200))
            facts.append(made_fact(rule, seed, "adversarial", "masking", float(rule != "bp"), "", "Blinded."))
    evidence = accuracies({}, extra=facts)
    assert "gradient masking in 2 of 2 runs" in found(evidence, "pgd-exact-above-bp").note
    assert "masking" not in found(evidence, "square-above-bp").note


def test_findings_depend_on_the_seed_and_on_nothing_else():
    evidence = full_evidence()
    first = evaluate(evidence, seed=1, resamples=100)
    assert evaluate(evidence, seed=1, resamples=100) == first
    assert evaluate(evidence, seed=2, resamples=100) != first


def test_progress_is_told():
    told = []
    evaluate(full_evidence(), resamples=100, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(n, len(CLAIMS)) for n in range(1, len(CLAIMS) + 1)]


def test_too_few_resamples_are_refused():
    with pytest.raises(ValueError, match="resamples must be at least 100, got 5"):
        evaluate(full_evidence(), resamples=5)


def test_known_images_are_paired_across_rules():
    generator = np.random.default_rng(0)
    hard = generator.random(2000)
    shares = {"fa": [0.5, 0.501, 0.502], "soft:0.5": [0.51, 0.512, 0.511]}
    correct = {("made", "", r, s): hard < share for r, row in shares.items() for s, share in enumerate(row)}
    values = {rule: [float((hard < share).mean()) for share in row] for rule, row in shares.items()}
    paired = found(accuracies(values, 2000, correct), "accuracy-above-fa")
    unpaired = found(accuracies(values, 2000), "accuracy-above-fa")
    assert paired.estimate == unpaired.estimate
    assert paired.high - paired.low < 0.7 * (unpaired.high - unpaired.low)
