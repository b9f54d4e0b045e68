import re

import pytest

from alignonce.experiments.report import results_markdown
from alignonce.experiments.report.markdown import escaped
from helpers.made_report import NASTY, RULES, made_content


@pytest.fixture(scope="module")
def content():
    return made_content()


def test_verdict_table_has_as_many_cells_in_each_row(content):
    lines = [line for line in results_markdown(content).splitlines() if line.startswith("| ")]
    verdicts = lines[: lines.index(next(line for line in lines if line.startswith("| Part")))]
    # The verdicts where nothing is varied, then those at 20 layers.
    assert len(verdicts) == (2 + 4) + (2 + 3)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in verdicts} == {len(RULES) + 3 + 1}
    assert verdicts[2].count("✗ not supported") == 1


def test_verdicts_are_words_with_estimate_and_interval(content):
    finding = content.findings[0]
    text = results_markdown(content)
    text = text.replace("\N{MINUS SIGN}", "-")
    assert re.search(r"✗ not supported<br>-1\d\.\d \(-1\d\.\d to -1\d\.\d\)", text)
    assert finding.verdict == "not supported"


def test_versions_seeds_and_machine_are_told(content):
    text = results_markdown(content)
    for words in ("PyTorch 2.13.0", "NumPy 2.4.6", "Seeds: 0, 1, 2", "A processor, 2 cores", "2026-11-24"):
        assert words in text


def test_links_of_images_begin_where_they_are_told_to(content):
    links = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", results_markdown(content, images="images/quick/"))
    assert links
    assert all(re.fullmatch(r"images/quick/[a-z-]+\.png", link) for link in links)


def test_names_that_look_like_html_stay_text(content):
    text = results_markdown(content)
    assert NASTY not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a|b", r"a\|b"), ("*x* _y_", r"\*x\* \_y\_"), ("a\n# b", r"a \# b"), ("a&b<c>", "a&amp;b&lt;c&gt;")],
)
def test_meaning_of_characters_is_taken_away(text, expected):
    assert escaped(text) == expected
