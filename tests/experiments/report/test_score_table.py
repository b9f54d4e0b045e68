"""The table of scores: differences are of the same seeds."""

import math
from dataclasses import replace

import pytest

from alignonce.experiments.facts import Fact, Facts
from alignonce.experiments.figures.panels import NONE
from alignonce.experiments.report.plots_training import training_plots
from alignonce.experiments.report.score_table import score_table
from alignonce.experiments.setting import Setting
from alignonce.experiments.studies.study import Study
from helpers.made_report import made_content

BITS = {
    ("bp", 0): 2.0,
    ("bp", 1): 4.0,
    ("fa", 0): 3.0,
    ("fa", 1): 4.4,
    ("soft:1", 1): 4.2,
    ("soft:1", 0): math.nan,
}


def study(*rules: str) -> Study:
    part = {"name": "main", "title": "One", "rules": rules, "train": {"task": "lm"}}
    return Study(name="made", title="A made study", seeds=(0, 1), parts=(part,))


def content(*rules: str):
    facts = [
        Fact(
            part="main",
            rule=rule,
            seed=seed,
            group="run",
            measure="test_bits_per_byte",
            images=10,
            value=value,
        )
        for (rule, seed), value in BITS.items()
        if rule in rules
    ]
    facts += [
        Fact(
            part="main",
            rule="fa",
            seed=seed,
            group="run",
            measure="cosine",
            item=layer,
            setting=Setting.of(epoch=epoch),
            value=value + epoch / 10,
        )
        for seed in (0, 1)
        for layer, value in (("a", 0.2), ("b", 0.4))
        for epoch in (0, 0.5)
    ]
    return replace(made_content(study(*rules)), facts=Facts(facts), findings=[])


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_difference_is_the_mean_over_the_same_seeds():
    heads, _, bp, fa = map(cells, score_table(content("bp", "fa")))
    assert dict(zip(heads, bp, strict=True))["Against backpropagation"] == "+0.0 ± 0.0 %"
    row = dict(zip(heads, fa, strict=True))
    assert row["bits per byte"] == "3.700 ± 0.990"
    assert row["Against backpropagation"] == "+30.0 ± 28.3 %"
    assert row["Cosine of W and B at the end"] == "0.25 to 0.45"


def test_a_study_without_backpropagation_is_compared_with_that_of_another():
    heads, _, fa = map(cells, score_table(content("fa"), content("bp")))
    row = dict(zip(heads, fa, strict=True))
    assert row["Against backpropagation"] == "+30.0 ± 28.3 %"
    assert row["Against it in the same setting"] == NONE
    with pytest.raises(ValueError, match="must hold a finished run of bp"):
        score_table(content("fa"))


def test_a_diverged_run_has_no_score_and_is_not_counted():
    *_, soft = map(cells, score_table(content("bp", "soft:1")))
    assert soft[1:5] == ["`soft:1`", "4.2000", "+5.0 %", "1"]


def test_bits_per_byte_have_figures_of_their_own_that_say_what_is_better():
    made = content("bp", "fa")
    plots = {p.name: p for plot in training_plots(made.study, made.facts) if (p := plot.drawable)}
    assert set(plots) == {"bits-per-byte"}
    (panel,) = plots["bits-per-byte"].panels
    assert panel.values == "bits per byte (lower is better)"
    assert {s.y for s in panel.series if s.rule == "fa"} == {(3.0,), (4.4,)}
