import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from alignonce.experiments.figures.style import rule_label
from alignonce.experiments.report import report_page
from alignonce.experiments.setting import NO_SETTING
from helpers.made_report import NASTY, RULES, SEEDS, made_content


class Page(HTMLParser):
    """What a browser would make of the page: elements with their attributes, and the text of each."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        element = (tag, dict(attributes), [])
        self.elements.append(element)
        if tag not in ("meta", "input", "br"):
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag, f"{tag} closes another element"

    def handle_data(self, data):
        for element in self.open:
            element[2].append(data)

    def all(self, tag, **attributes):
        names = {name.rstrip("_"): value for name, value in attributes.items()}
        return [
            (found, "".join(text))
            for name, found, text in self.elements
            if name == tag and all(found.get(key) == value for key, value in names.items())
        ]


@pytest.fixture(scope="module")
def content():
    return made_content()


@pytest.fixture(scope="module")
def html(content):
    return report_page(content)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_every_element_is_closed_and_ids_are_unique(page):
    assert not page.open
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)


def test_every_link_within_the_page_has_an_aim(page):
    ids = {attributes.get("id") for _, attributes, _ in page.elements}
    links = [attributes["href"] for attributes, _ in page.all("a")]
    assert links
    assert all(link.startswith("#") and link[1:] in ids for link in links)


def test_verdict_table_has_a_row_for_each_claim_and_place_and_a_column_for_each_judged_rule(page, content):
    table = next(at for at, (_, found, _) in enumerate(page.elements) if found.get("id") == "verdict-table")
    rest = page.elements[table:]
    heads = ["".join(text) for tag, found, text in rest if tag == "button"][: len(RULES) + 1]
    assert heads == ["Claim", *map(rule_label, RULES[1:]), "soft alignment, all cosines"]
    places = {(finding.claim, finding.part, finding.cell) for finding in content.findings}
    sentences = [text for tag, found, text in rest if found.get("href", "").startswith("#claim-")]
    assert len(sentences) == len(places)
    verdicts = ["".join(text) for _, found, text in rest if found.get("class", "").startswith("verdict ")]
    expected = [finding.verdict for finding in content.findings]
    for verdict in ("supported", "not supported", "inconclusive"):
        own = [text for text in verdicts if text.lstrip("✓✗?") == verdict]
        # Once in the table of all verdicts, once in the claim's own.
        assert len(own) == 2 * expected.count(verdict)


def test_verdicts_are_told_by_word_and_sign_and_not_by_colour_alone(page):
    texts = {text for found, text in page.all("span") if found.get("class", "").startswith("verdict ")}
    assert texts == {"✓supported", "✗not supported", "?inconclusive"}


def test_claim_section_shows_sentence_measure_estimate_and_command(page, content):
    articles = {found["id"]: text for found, text in page.all("article")}
    assert sorted(articles) == sorted(f"claim-{claim.id}" for claim in content.claims if claim.id != "alone")
    text = articles["claim-accuracy-near-bp"]
    claim = content.claims[0]
    for words in (claim.sentence, claim.measured, claim.statistic, content.commands[0]):
        assert words in text
    assert "Nothing in this study measures it." in articles["claim-unmeasured"]


def test_sections_that_nothing_measures_are_named_in_one_sentence_instead(page):
    text = next(text for _, text in page.all("section", id="verdicts"))
    assert "Claims that nothing in this study measures: Robustness." in text
    assert "Robustness" not in [text for _, text in page.all("h2")]


def test_names_that_look_like_html_stay_text(html, page, content):
    assert NASTY in page.all("h1")[0][1]
    assert NASTY in page.all("title")[0][1]
    failures = next(text for found, text in page.all("section", id="failures"))
    assert f"failed: ValueError: {NASTY}" in failures
    assert "</script><script>alert(2)</script>|x" in next(text for _, text in page.all("section", id="runs"))
    scripts = page.all("script")
    assert len(scripts) == 3
    assert not any(text.strip().startswith("alert(") for _, text in scripts)
    assert "<b>" not in html.split("<script", 1)[0]


def test_data_is_json_without_characters_that_end_a_script(page):
    ((_, text),) = page.all("script", id="data")
    assert not re.search(r"[<>&\u2028\u2029]", text)
    data = json.loads(text)
    assert data["seeds"] == list(SEEDS)
    assert [rule["spec"] for rule in data["rules"]] == [*RULES, "soft"]
    titles = [panel["title"] for panel in data["plots"]["accuracy"]["panels"]]
    assert titles == [f"Ten layers {NASTY}"]


def test_data_holds_each_seed_of_each_rule(page, content):
    data = json.loads(page.all("script", id="data")[0][1])
    shown = {(s["rule"], s["seed"]): s["y"][0] for s in data["plots"]["accuracy"]["panels"][0]["series"]}
    facts = content.facts.pick(part="main", group="run", measure="test_accuracy", setting=NO_SETTING)
    assert len(shown) == len(facts) == 14
    assert all(shown[f.rule, f.seed] == pytest.approx(100 * f.value, rel=1e-5) for f in facts)


def test_policy_allows_the_two_scripts_of_the_page_and_no_network(page):
    policy = next(
        f["content"] for f, _ in page.all("meta") if f.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    for found, text in page.all("script"):
        if found.get("type") != "application/json":
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy


def test_nothing_is_loaded_from_elsewhere(page):
    for tag, found, _ in page.elements:
        assert tag not in ("link", "iframe", "img", "object"), tag
        assert "src" not in found


def test_every_table_has_a_caption_and_scopes(page):
    assert len(page.all("table")) == len(page.all("caption"))
    assert all("scope" in found for found, _ in page.all("th"))


def test_every_figure_has_a_caption_and_each_panel_a_name(page):
    assert len(page.all("figure")) == len(page.all("figcaption")) > 8
    panels = [f for f in page.all("div", role="group") if "data-plot" in f[0]]
    assert panels
    assert all(found["aria-label"] for found, _ in panels)


def test_page_is_a_few_megabytes(html):
    assert len(html.encode()) < 7e6


def test_study_without_findings_or_measures_makes_a_page(content):
    from dataclasses import replace

    from alignonce.experiments.facts import Facts

    page = Page(report_page(replace(content, facts=Facts(), findings=[], claims=[], failures={})))
    text = next(text for _, text in page.all("main"))
    assert "There is nothing yet to judge." in text
    assert "No run failed, and none diverged." in text
