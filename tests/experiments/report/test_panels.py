import math
from dataclasses import replace

import pytest

from alignonce.experiments.facts import Fact
from alignonce.experiments.figures.painting import draw_plot
from alignonce.experiments.figures.panels import (
    Interval,
    Panel,
    Plot,
    Series,
    lines,
    mean_line,
    number_tables,
    shown,
)
from alignonce.experiments.figures.style import dark_page_color
from alignonce.experiments.report.plots_claims import claim_plot, claim_sweep_plot
from alignonce.experiments.setting import Setting
from helpers.made_report import made_content


@pytest.fixture(scope="module")
def plots():
    return {plot.name: plot for plot in made_content().plots()}


def made_fact(seed, x, value):
    return Fact(
        part="main", rule="fa", seed=seed, group="run", measure="test_accuracy", setting=Setting.of(epoch=x),
        images=10, value=value,
    )  # fmt: skip


def test_lines_have_one_series_for_each_run_in_the_order_of_places():
    facts = [made_fact(0, 2, 0.5), made_fact(0, 1, 0.25), made_fact(1, 1, 0.5)]
    found = lines(facts, lambda fact: fact.setting.number("epoch"), 100)
    assert found == (Series("fa", 0, (25.0, 50.0), (1.0, 2.0)), Series("fa", 1, (50.0,), (1.0,)))


def test_several_facts_at_one_place_are_averaged():
    facts = [made_fact(0, 1, 0.5), made_fact(0, 1, 0.25)]
    assert lines(facts, lambda fact: 1.0)[0].y == (0.375,)


def test_mean_line_leaves_out_what_is_not_finite():
    series = [Series("fa", 0, (1.0, math.nan), (0.0, 1.0)), Series("fa", 1, (3.0, 5.0), (0.0, 1.0))]
    assert list(mean_line(series)) == [(0.0, 2.0), (1.0, 5.0)]


def test_depth_has_a_panel_for_each_choice_of_the_other_setting_and_all_depths(plots):
    panels = plots["depth"].panels
    assert [panel.title for panel in panels] == ["init=he", "init=glorot"]
    assert panels[0].series[0].x == (2.0, 20.0, 30.0)


def test_diverged_run_is_marked_and_counts_as_chance(plots):
    (lost,) = (s for s in plots["depth"].panels[0].series if (s.rule, s.seed) == ("fa", 1))
    assert lost.y[-1] == pytest.approx(10)


def test_robustness_has_a_panel_for_each_attack_and_route_and_one_of_corruptions(plots):
    titles = [panel.title for panel in plots["robustness"].panels]
    assert titles == ["PGD, exact route", "PGD, feedback route", "Square, black box", "Corruptions"]
    assert "bp" not in {s.rule for s in plots["robustness"].panels[1].series}


def test_attack_begins_at_clean_accuracy(plots):
    assert plots["robustness"].panels[0].series[0].x[:2] == (0.0, pytest.approx(2.0, rel=1e-4))


def test_curvature_takes_the_first_eigenvalue_only(plots):
    panel = plots["curvature"].panels[0]
    assert panel.title == "Largest eigenvalue"
    assert sorted({(s.rule, s.seed) for s in panel.series}) == sorted((s.rule, s.seed) for s in panel.series)


def test_panels_without_numbers_are_left_out():
    empty = Panel("a", "dots", "b", (Series("fa", 0, (math.nan,)),))
    full = Panel("c", "dots", "b", (Series("fa", 0, (1.0,)),))
    assert Plot("x", "t", "", (empty, full)).drawable.panels == (full,)
    assert Plot("x", "t", "", (empty,)).drawable is None


def test_claim_shows_seeds_estimate_interval_and_threshold():
    content = made_content()
    claim, finding = content.claims[0], content.findings[0]
    panel = claim_plot(claim, content).panels[0]
    assert panel.mark == claim.threshold
    interval = panel.intervals[0]
    assert (interval.estimate, interval.low, interval.high) == (finding.estimate, finding.low, finding.high)
    own = [s.y[0] for s in panel.series if s.rule == finding.rule]
    assert own == list(finding.per_seed.values())


def test_claim_is_drawn_against_the_depth_that_the_study_varies():
    content = made_content()
    (panel,) = claim_sweep_plot(content.claims[0], content).panels
    assert (panel.title, panel.along) == ("Depth · init=he", "hidden layers")
    assert {s.x for s in panel.series} == {(20.0,)}
    assert [p.title.startswith("Depth") for p in claim_plot(content.claims[0], content).panels] == [False]


def test_findings_of_a_claim_are_no_details_if_there_are_no_others():
    content = made_content()
    deep = [finding for finding in content.findings if finding.part == "depth"]
    content = replace(content, findings=deep)
    assert claim_plot(content.claims[0], content).drawable is not None
    assert claim_sweep_plot(content.claims[0], content).drawable is None


def test_claim_that_nothing_measures_has_no_figure():
    content = made_content()
    assert claim_plot(content.claims[-1], content).drawable is None


def test_image_draws_the_mean_of_each_rule(plots):
    axes = draw_plot(plots["learning"]).axes[0]
    thick = [line for line in axes.lines if line.get_linewidth() > 1]
    assert len(thick) == 5
    (table,) = number_tables(plots["learning"])
    assert float(table.rows[-1][1]) == pytest.approx(thick[0].get_ydata()[-1], abs=0.06)


def test_numbers_of_dots_are_mean_deviation_and_count():
    series = tuple(Series("fa", seed, (float(seed),)) for seed in (1, 2, 3))
    (table,) = number_tables(Plot("x", "t", "", (Panel("a", "dots", "b", series),)))
    assert table.rows == [("random feedback", "2.00", "1.00", "3")]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-2.4231, "\N{MINUS SIGN}2.42"),
        (88.04, "88.0"),
        (100.0, "100"),
        (12345.6, "12,346"),
        (math.nan, "\N{EN DASH}"),
        (0.00012, "0.000120"),
    ],
)
def test_numbers_are_written_with_three_digits(value, text):
    assert shown(value) == text


@pytest.mark.parametrize("rule", ["bp", "fa", "soft:0", "soft:1", "kp", "mirror", "dfa", "sign", "usf"])
def test_every_rule_is_visible_on_a_dark_page(rule):
    def luminance(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    contrast = (luminance(dark_page_color(rule)) + 0.05) / (luminance("#14171C") + 0.05)
    assert contrast > 3


def test_panels_of_few_rules_stand_apart_from_those_of_many_and_name_their_own_rules():
    def panel(*rules):
        return Panel("", "dots", "points", tuple(Series(rule, 0, (1.0,)) for rule in rules))

    many, few = ("bp", "fa", "soft:0.25", "soft:0.5", "soft:1"), ("bp", "soft:1")
    axes = draw_plot(Plot("made", "Made", "", (panel(*many), panel(*few), panel(*few)))).axes
    assert [len(ax.get_yticks()) for ax in axes] == [5, 2, 2]
    tops = [ax.get_subplotspec().rowspan.start for ax in axes]
    assert tops == [0, 1, 1]
    assert [label.get_text() for label in axes[1].get_yticklabels()] == [
        "backpropagation",
        "soft alignment 1",
    ]


def test_image_and_table_have_the_same_mean_though_a_logarithmic_axis_has_no_place_for_some_values():
    series = tuple(Series("fa", seed, (value,)) for seed, value in enumerate((-1.0, 2.0, 8.0)))
    plot = Plot("x", "t", "", (Panel("a", "dots", "b", series, log=True),))
    (diamond,) = (line for line in draw_plot(plot).axes[0].lines if line.get_marker() == "D")
    assert diamond.get_xdata() == [3.0]
    assert number_tables(plot)[0].rows[0][1] == "3.00"


def test_statistics_of_an_estimate_are_its_own_interval():
    series = (Series("fa", 0, (1.0,)), Series("fa", 1, (3.0,)))
    panel = Panel("a", "dots", "b", series, intervals=(Interval("fa", 1.7, 0.5, 4.0),))
    found = panel.statistics["fa"]
    assert (found.mean, found.low, found.high, found.seeds) == (1.7, 0.5, 4.0, 2)
