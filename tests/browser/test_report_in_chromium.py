"""The page in a real browser, opened from disk."""

import shutil
from dataclasses import replace

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

from alignonce.experiments.figures.style import rule_label
from alignonce.experiments.report import report_page
from helpers.made_report import NASTY, RULES, made_content

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="Chromium is missing: sudo apt-get install --no-install-recommends chromium",
    ),
]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 320, "height": 700}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(report_page(made_content()), encoding="utf-8")
    return file.as_uri()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


# Milliseconds; on a machine with other work, drawing all figures has taken more than the usual 30 seconds.
PATIENCE = 180_000


@pytest.fixture
def visit(browser, url):
    """Opens the page; afterwards, nothing may have gone wrong or been asked of a network."""
    contexts, wrong = [], []

    def opened(viewport=DESKTOP, **settings):
        context = browser.new_context(viewport=viewport, reduced_motion="reduce", **settings)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on(
            "request",
            lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else wrong.append(r.url),
        )
        page.on("requestfailed", lambda request: wrong.append(request.url))
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def drawn(page, name, panel=0):
    """Scroll to a panel and wait until it is drawn."""
    axes = page.locator(f'.axes[data-plot="{name}"][data-panel="{panel}"]')
    axes.scroll_into_view_if_needed()
    axes.locator(".main-svg").first.wait_for()
    return axes


def names_of_traces(axes):
    return axes.evaluate("element => element.data.map(trace => trace.name)")


def test_every_figure_is_drawn(visit):
    page = visit()
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    names = page.locator(".axes").evaluate_all("all => all.map(one => one.dataset.plot)")
    assert {"accuracy", "depth", "curvature", "robustness", "claim-flatter"} <= set(names)
    for at in range(len(names)):
        axes = page.locator(".axes").nth(at)
        axes.scroll_into_view_if_needed()
        axes.locator(".main-svg").first.wait_for()
        assert axes.locator(".scatterlayer .trace").count() > 0, names[at]


def test_a_rule_that_is_unticked_leaves_all_figures_and_comes_back(visit):
    page = visit()
    axes = [drawn(page, "learning"), drawn(page, "accuracy")]
    label = rule_label("fa")
    assert all(label in names_of_traces(one) for one in axes)
    page.get_by_role("checkbox", name=label).uncheck()
    assert not any(label in names_of_traces(one) for one in axes)
    assert label not in names_of_traces(drawn(page, "depth"))
    page.get_by_role("checkbox", name=label).check()
    assert all(label in names_of_traces(one) for one in axes)


def test_means_are_those_of_the_chosen_seeds(visit):
    page = visit()
    axes = drawn(page, "accuracy")
    trace = "element => element.data.filter(one => one.name === 'backpropagation')"
    points = axes.evaluate(trace)[0]["x"]
    page.get_by_role("checkbox", name="0", exact=True).uncheck()
    after = axes.evaluate(trace)
    assert after[0]["x"] == points[1:]
    assert after[1]["x"] == [pytest.approx(sum(points[1:]) / 2)]


def test_hovering_over_a_mark_says_what_it_is(visit):
    page = visit()
    drawn(page, "accuracy").locator(".scatterlayer .trace path.point").last.hover(force=True)
    label = page.locator(".hoverlayer .hovertext").first
    expect(label).to_contain_text("Kolen-Pollack 0.001")


def test_a_click_on_a_heading_sorts_and_another_one_turns_it_round(visit):
    page = visit()
    head = page.locator("#verdict-table thead th").nth(1)
    order = {"not supported": 0, "inconclusive": 1, "supported": 2}

    def column():
        words = page.locator("#verdict-table tbody tr td:nth-child(2) .verdict").all_inner_texts()
        return [order[word.lstrip("✓✗?").strip()] for word in words]

    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert column() == sorted(column())
    assert len(set(column())) > 1
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert column() == sorted(column(), reverse=True)


def test_numbers_sort_as_numbers(visit):
    page = visit()
    table = page.locator("#claim-accuracy-near-bp table").first
    table.get_by_role("button", name="Estimate").click()
    values = table.locator("tbody td:nth-child(5)").all_inner_texts()
    numbers = [float(value.replace("\N{MINUS SIGN}", "-")) for value in values]
    assert numbers == sorted(numbers)


def test_keyboard_reaches_the_headings_and_sorts(visit):
    page = visit()
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Claim":
            break
    focused = page.locator(":focus")
    expect(focused).to_have_class("sort")
    assert focused.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.locator("#verdict-table th").first).to_have_attribute("aria-sort", "ascending")


def test_first_tab_offers_to_skip_to_the_verdicts(visit):
    page = visit()
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to the verdicts")
    expect(page.locator(":focus")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("#verdicts")).to_be_focused()


def test_a_verdict_opens_by_keyboard_and_shows_its_interval(visit):
    page = visit()
    summary = page.locator("#verdict-table summary").first
    summary.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#verdict-table details").first).to_contain_text("95% interval")
    expect(page.locator("#verdict-table details").first).to_have_attribute("open", "")


def test_names_that_look_like_html_stay_text(visit):
    page = visit()
    expect(page.locator("h1")).to_contain_text(NASTY)
    expect(page.locator("#failures")).to_contain_text(NASTY)
    expect(page.locator("#figure-accuracy .panel-title")).to_have_text(f"Ten layers {NASTY}")
    assert page.locator("script").count() == 3


def test_names_in_plotly_stay_text(browser, tmp_path):
    content = made_content()
    claims = [replace(claim, statistic="<b>bold</b> & <i>x</i>") for claim in content.claims]
    file = tmp_path / "report.html"
    file.write_text(report_page(replace(content, claims=claims)), encoding="utf-8")
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(file.as_uri())
    expect(drawn(page, "claim-flatter").locator(".xtitle")).to_have_text("<b>bold</b> & <i>x</i>")
    page.close()


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP])
def test_page_does_not_scroll_sideways(visit, viewport):
    page = visit(viewport)
    drawn(page, "depth")
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    # What is wide scrolls within.
    if viewport is PHONE:
        table = page.locator(".scroll").first
        assert table.evaluate("one => one.scrollWidth > one.clientWidth")


def test_dark_is_chosen_by_the_system_and_can_be_changed(visit):
    page = visit(color_scheme="dark")
    back = "getComputedStyle(document.body).backgroundColor"
    axes = drawn(page, "learning")
    first = "element => element.data.find(one => one.name === 'backpropagation').line.color"
    assert page.evaluate(back) == "rgb(20, 23, 28)"
    dark = axes.evaluate(first)
    page.get_by_role("button", name="Change to light colours").click()
    assert page.evaluate(back) == "rgb(255, 255, 255)"
    assert axes.evaluate(first) == "#000000" != dark
    page.reload()
    assert page.evaluate(back) == "rgb(255, 255, 255)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_inaccessible(visit, scheme):
    page = visit(color_scheme=scheme)
    drawn(page, "accuracy")
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_print_shows_every_figure_in_light_colours(visit):
    page = visit(color_scheme="dark")
    pdf = page.pdf()
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 100_000
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.locator(".js-plotly-plot").count() == page.locator(".axes").count()


def test_every_rule_has_a_box_to_tick(visit):
    page = visit()
    labels = page.locator('input[name="rule"]').evaluate_all(
        "all => all.map(one => one.parentNode.textContent)"
    )
    assert labels == [*map(rule_label, RULES), "soft alignment, all cosines"]
