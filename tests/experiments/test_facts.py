"""The table of numbers: settings, picking, and the form on disk."""

import math

import numpy as np
import pytest

from alignonce.experiments.facts import Fact, Facts
from alignonce.experiments.setting import NO_SETTING, Setting


@pytest.mark.parametrize(
    "text",
    ["", "severity=3", "route=exact eps=0.0313725 norm=linf", "rank=1 products=1e+06", "x=-0.5 y=0",
     "The attack by feedback weights is weaker: eps=0.03 leaves 90%."],
)  # fmt: skip
def test_settings_read_back_as_they_were_written(text):
    assert str(Setting.parse(text)) == text


def test_a_setting_that_was_made_equals_the_one_that_is_read():
    made = Setting.of(route="exact", eps=8 / 255, draw=0)
    assert made == Setting.parse("route=exact eps=0.0313725 draw=0")
    assert (made.number("eps"), made.get("route"), made.text("draw")) == (0.0313725, "exact", "0")


def test_a_setting_without_an_entry_says_so():
    assert NO_SETTING.get("eps") is None
    assert NO_SETTING.text("eps") == ""
    with pytest.raises(KeyError, match="eps"):
        NO_SETTING.number("eps")


@pytest.mark.parametrize("value", ["black box", ""])
def test_a_text_that_would_not_read_back_is_refused(value):
    with pytest.raises(ValueError, match="route must be a text without spaces, got"):
        Setting.of(route=value)


def test_a_sentence_has_no_entries():
    sentence = Setting.parse("Blinded at eps=0.03.")
    assert (sentence.entries, sentence.remark) == ((), "Blinded at eps=0.03.")


def table():
    return Facts(
        [
            Fact(rule=rule, seed=seed, measure="loss", setting=Setting.of(epoch=epoch), value=seed + epoch)
            for rule in ("bp", "fa")
            for seed in (0, 1)
            for epoch in (0, 0.5)
        ],
        {("", "", "fa", 1): np.array([True, False])},
    )


def test_facts_are_picked_by_columns_in_their_order():
    assert table().pick(rule="fa", seed=1).values == [1, 1.5]
    assert table().pick(seed=1).pick(rule="fa").values == [1, 1.5]
    assert table().pick(setting=Setting.of(epoch=0.5), rule="bp").values == [0.5, 1.5]
    assert len(table().pick(rule="dfa")) == 0


def test_picking_twice_gives_the_same_facts():
    facts = table()
    assert list(facts.pick(rule="fa")) == list(facts.pick(rule="fa")) == list(facts)[4:]


def test_facts_are_picked_by_entries_of_their_settings():
    assert len(table().having(Setting.of(epoch=0))) == 4
    assert len(table().having(NO_SETTING)) == 8


def test_distinct_values_come_in_order_of_appearance():
    assert table().distinct("rule") == ["bp", "fa"]
    assert table().distinct("rule", "seed") == [("bp", 0), ("bp", 1), ("fa", 0), ("fa", 1)]


def test_the_last_is_the_newest_of_those_picked():
    assert table().last(rule="bp", seed=0).value == 0.5
    assert table().last(rule="dfa") is None


def test_what_is_picked_still_knows_the_right_images():
    assert table().pick(seed=0).correct("", "", "fa", 1).tolist() == [True, False]


def test_table_reads_back_exactly(tmp_path):
    facts = [
        Fact("main", "depth=2", "r", "fa", 3, "run", "loss", "a,b", Setting.of(eps=0.1), 7, 5, 1 / 3),
        Fact(measure="masking", setting=Setting(remark='He said: "so, eps=1".'), value=math.inf),
    ]
    Facts(facts).write_csv(tmp_path / "facts.csv")
    assert list(Facts.read_csv(tmp_path / "facts.csv")) == facts


def test_tables_of_earlier_versions_are_read(tmp_path):
    file = tmp_path / "old.csv"
    file.write_text(
        "run,rule,seed,group,measure,item,setting,images,value,step\n"
        "fa-seed0,fa,0,curvature,eigenvalue,,rank=1 products=40,256,12.5,\n"
        "fa-seed0,fa,0,curvature,trace,,products=5,128,1.5,7\n"
    )
    first, second = Facts.read_csv(file)
    assert first == Fact(
        run="fa-seed0", rule="fa", group="curvature", measure="eigenvalue",
        setting=Setting.of(rank=1, products=40), images=256, value=12.5,
    )  # fmt: skip
    assert second.step == 7
    file.write_text(
        "part,cell,rule,seed,group,measure,item,setting,images,value\n"
        "main,depth=2,fa,1,run,test_accuracy,,epoch=0.5,10,0.25\n"
    )
    (fact,) = Facts.read_csv(file)
    assert (fact.key, fact.setting.number("epoch")) == (("main", "depth=2", "fa", 1), 0.5)


HEAD = ",".join(Fact._fields)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "line 0: it must begin with the columns part,cell"),
        ("a,b\n", "line 1: it must begin"),
        (f"{HEAD}\nmain,\n", "line 2"),
        (f"{HEAD}\n,,,,x,,,,,,0,1\n", "line 2: invalid literal"),
        (f"{HEAD}\n,,,,0,,,,,,0,1", "line 1: the file ends within this line"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line(tmp_path, text, complaint):
    file = tmp_path / "facts.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"facts.csv, {complaint}"):
        Facts.read_csv(file)
