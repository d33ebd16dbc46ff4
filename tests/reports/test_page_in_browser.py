"""The report page in a headless Chromium: sort, filter, zoom, switches, keyboard, widths and themes."""

import json
import re
import shutil
from importlib.resources import files

import numpy as np
import pytest
from written_runs import write_run

from fedlit.reports.measures.metrics import mean_curve
from fedlit.reports.measures.trade_off import pareto_front
from fedlit.reports.page.page import SCRIPTS, to_page
from fedlit.reports.page.page_data import page_data
from fedlit.reports.result import make_report

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
sync_api = pytest.importorskip("playwright.sync_api", reason="needs fedlit[browser]")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason=f"needs one of {', '.join(BROWSERS)} on PATH"),
]
HOSTILE = "</script><script>window.harm=1</script><img src=x onerror=window.harm=1>"
PARTITION = {"clients": 2, "samples": 8, "label_counts": [[4, 0], [1, 3]], "mean_total_variation": 0.3}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report on three groups of runs of unequal costs; one has no epsilon, one has a hostile name."""
    folder, generator = tmp_path_factory.mktemp("page"), np.random.default_rng(1)
    for name, size, top in (("a", 1000, 0.6), ("b", 10_000, 0.8), (HOSTILE, 2000, 0.5)):
        for seed in range(1, 7 if name == "a" else 4):
            curve = (top * (1 - np.exp(-np.arange(1, 13) / 4)) + generator.normal(size=12) / 100).tolist()
            spread = {
                "own/accuracy": 0.5,
                "own/accuracy_std": 0.1,
                "own/accuracy_lowest_tenth": 0.3,
                "own/accuracy_highest_tenth": 0.7,
            }
            rounds = {
                i: {
                    "comm/up_bytes": size + int(generator.integers(0, size)),
                    "time/simulated_s": 1.0 + generator.random(),
                    **({} if name == "b" else {"privacy/epsilon": i / 6}),
                    **spread,
                }
                for i in range(1, 13)
            }
            if (name, seed) == ("a", 2):
                curve[3] = None  # a round without an evaluation
            path = write_run(folder / f"{name[0]}{seed}".replace("<", "x"), curve, rounds=rounds, seed=seed, new=name)
            (path / "partition.json").write_text(json.dumps(PARTITION))
    return make_report([folder])


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("html") / "report.html"
    path.write_text(to_page(report, f"python {HOSTILE}"))
    return path.as_uri()


@pytest.fixture
def open_page(browser, address):
    """Open the page; no error, no message in the console and no request to elsewhere may occur until the end."""
    contexts, problems = [], []

    def open_page(width=1200, theme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request", lambda request: request.url == address or request.url == "data:," or problems.append(request.url)
        )
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def page(open_page):
    return open_page()


def column(page, number, table=0):
    rows = page.locator("table").nth(table).locator("tbody tr:visible")
    return [rows.nth(i).locator("th,td").nth(number).inner_text() for i in range(rows.count())]


def curve_labels(page):
    """The groups whose curves are in the chart."""
    return page.eval_on_selector_all(
        "#curves-chart .chart:not(.panels .chart) path.curve", "paths => paths.map(p => p.parentNode.dataset.group)"
    )


@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page_fits_the_width_in_both_themes_and_nothing_hostile_runs(open_page, width, theme, tmp_path):
    page = open_page(width, theme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("window.harm") is None
    ground, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ground, ink)]
    assert (brightness[0] > brightness[1]) == (theme == "light")
    for id in ("curves-chart", "trade-off-chart", "spread-chart", "differences-best", "partition-0"):
        box = page.locator(f"#{id} svg").first.bounding_box()
        assert box["width"] > 100
        assert box["x"] + box["width"] <= width
    picture = tmp_path / "page.png"
    page.screenshot(path=picture)
    assert picture.stat().st_size > 10_000


CONTRASTS = """() => {
  const numbers = (text) => text.match(/[\\d.]+/g).slice(0, 3).map((value) => value / 255);
  const linear = (value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const luminance = (text) => numbers(text).reduce((sum, v, i) => sum + linear(v) * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = luminance(getComputedStyle(document.body).backgroundColor);
  const contrast = (text) => {
    const other = luminance(text);
    return (Math.max(other, ground) + 0.05) / (Math.min(other, ground) + 0.05);
  };
  const least = (selector, key) =>
    Math.min(...[...document.querySelectorAll(selector)].map((element) => contrast(getComputedStyle(element)[key])));
  const chart = document.querySelector('#curves-chart svg');
  const colours = [0, 1, 2, 3, 4, 5, 6].map((i) => {
    const group = document.createElementNS(chart.namespaceURI, 'g');
    group.setAttribute('class', `g${i}`);
    group.innerHTML = '<path class="curve"/>';
    chart.append(group);
    return contrast(getComputedStyle(group.firstChild).stroke);
  });
  return {texts: [least('p, td, th, a', 'color'), least('svg text', 'fill')], colours};
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_and_lines_have_the_contrast_of_wcag(open_page, theme):
    contrasts = open_page(1200, theme).evaluate(CONTRASTS)
    assert min(contrasts["texts"]) >= 4.5
    assert min(contrasts["colours"]) >= 3.0


def test_button_changes_the_theme_and_a_reload_keeps_it(page):
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    after = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert before != after
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == after


def test_a_click_sorts_a_table_by_numbers_and_another_one_reverses_it(page):
    button = page.locator("table").first.locator("thead button", has_text="mean")
    original = column(page, 3)
    button.click()
    assert [*map(float, column(page, 3))] == sorted(map(float, original))
    assert page.locator("table").first.locator("th[aria-sort=ascending]").inner_text().startswith("mean")
    button.press("Enter")  # by keyboard
    assert [*map(float, column(page, 3))] == sorted(map(float, original), reverse=True)
    page.locator("table").first.locator("thead button", has_text="group").click()
    assert column(page, 0) == sorted(column(page, 0))


def test_cells_without_a_number_are_last_in_both_directions(page):
    index = page.locator("caption").all_inner_texts().index("what leaves the clients")
    button = page.locator("table").nth(index).locator("thead button", has_text="epsilon")
    for _ in range(2):
        button.click()
        assert column(page, 0, index)[-1] == "new=b"


def test_filter_leaves_the_groups_that_match(page):
    page.fill("#filter", "NEW=b")
    assert set(column(page, 0)) == {"new=b"}
    assert {*curve_labels(page)} == {"2"}
    assert page.locator(".legend li:visible").count() == 1
    assert page.inner_text("#count") == "1 of 3 groups shown"
    page.fill("#filter", "new x=a")  # all words of a filter must match
    assert column(page, 0) == []
    page.fill("#filter", "nothing")
    assert column(page, 0) == []
    assert "no values to draw" in page.text_content("#curves-chart")
    page.fill("#filter", "")
    assert len({*curve_labels(page)}) == 3


def test_legend_switches_groups_off_and_on(page):
    buttons = page.locator(".legend button")
    labels = buttons.all_inner_texts()
    assert len({*curve_labels(page)}) == 3
    buttons.nth(0).press("Space")
    assert buttons.nth(0).get_attribute("aria-pressed") == "false"
    assert {*curve_labels(page)} == {"1", "2"}
    assert page.locator("#trade-off-chart path.dot").count() == 2
    page.reload()  # the choice stays
    assert {*curve_labels(page)} == {"1", "2"}
    page.get_by_role("button", name="hide all").click()
    assert curve_labels(page) == []
    page.get_by_role("button", name="show all").click()
    assert len({*curve_labels(page)}) == 3
    assert any(HOSTILE in label for label in labels)


def test_hover_names_the_point_and_dims_the_others(page):
    path = page.locator("#curves-chart path.curve").first
    group = path.evaluate("p => p.parentNode.dataset.group")
    path.scroll_into_view_if_needed()
    end = "path.getPointAtLength(path.getTotalLength()).matrixTransform(path.getScreenCTM())"
    x, y = path.evaluate(f"path => {{ const end = {end}; return [end.x, end.y]; }}")
    page.mouse.move(x, y)
    tip = page.locator("#curves-chart .tip").first
    assert "±" in tip.inner_text()
    assert "at round 12" in tip.inner_text()
    dimmed = page.eval_on_selector_all("#curves-chart g.dim", "gs => gs.map(g => g.dataset.group)")
    assert dimmed
    assert group not in dimmed
    page.mouse.move(0, 0)
    assert page.locator("#curves-chart g.dim").count() == 0
    page.locator(".legend button").nth(1).focus()
    assert page.locator("#curves-chart g.dim").count() > 0


def tick_texts(page, chart):
    return page.eval_on_selector_all(f"#{chart} svg text[text-anchor=middle]", "ts => ts.map(t => t.textContent)")


def test_zoom_by_dragging_by_buttons_and_by_keys(page):
    whole = tick_texts(page, "curves-chart")
    chart = page.locator("#curves-chart svg[tabindex]").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.6 * box["height"], steps=4)
    assert page.locator("#curves-chart rect.drag").count() == 1
    page.mouse.up()
    heights = page.eval_on_selector_all(
        "#curves-chart svg text[text-anchor=end]", "ts => ts.map(t => [Number(t.textContent), -t.getAttribute('y')])"
    )
    assert len(heights) > 1
    assert heights == sorted(heights)
    assert [height for _, height in heights] == sorted(height for _, height in heights)  # larger values are higher
    dragged = [int(text) for text in tick_texts(page, "curves-chart") if text.isdigit()]
    assert dragged
    assert all(5 <= number <= 9 for number in dragged)
    page.locator("#curves-chart").get_by_role("button", name="whole chart").click()
    assert tick_texts(page, "curves-chart") == whole
    chart.focus()
    page.keyboard.press("+")
    zoomed = tick_texts(page, "curves-chart")
    assert zoomed != whole
    page.keyboard.press("ArrowRight")
    assert tick_texts(page, "curves-chart") != zoomed
    page.keyboard.press("0")
    assert tick_texts(page, "curves-chart") == whole


@pytest.mark.parametrize(
    ("axis", "label"),
    [
        ("bytes", "traffic in both directions (kB)"),
        ("simulated_s", "simulated time (s)"),
        ("privacy/epsilon", "epsilon"),
    ],
)
def test_curves_over_costs_and_epsilon(page, axis, label):
    page.select_option("#choice-axis", axis)
    assert label in tick_texts(page, "curves-chart")
    assert len({*curve_labels(page)}) == (2 if axis == "privacy/epsilon" else 3)


def test_logarithmic_axes_and_another_metric(page):
    page.select_option("#choice-metric", "comm/up_bytes")
    linear = page.locator("#curves-chart path.curve").first.get_attribute("d")
    page.check("#choice-curvesYLog")
    assert page.locator("#curves-chart path.curve").first.get_attribute("d") != linear
    page.check("#choice-curvesXLog")
    assert {"1", "2", "5", "10"} <= {*tick_texts(page, "curves-chart")}
    assert "NaN" not in page.inner_html("#curves-chart")


def test_panels_have_one_group_each_and_the_others_grey(page):
    page.select_option("#choice-view", "panels")
    panels = page.locator(".panels figure", has=page.locator(".chart"))
    assert panels.count() == 3
    for i in range(3):
        assert panels.nth(i).locator("path.curve").count() == 1
        assert panels.nth(i).locator("path.others").count() == 2


def test_trade_off_of_any_two_columns(page):
    page.select_option("#choice-x", "privacy/epsilon")
    assert page.locator("#trade-off-chart path.dot").count() == 2
    assert page.locator("#trade-off-chart line.curve").count() == 1  # the group without epsilon
    assert "A dashed line is a group without privacy/epsilon." in page.inner_text("#trade-off-chart")
    page.select_option("#choice-x", "comm/up_bytes")
    page.select_option("#choice-y", "test/accuracy")
    assert page.locator("#trade-off-chart path.dot").count() == 3
    assert page.locator("#trade-off-chart path.dot.hollow").count() == 1  # sends more than a, and is worse
    assert page.locator("#trade-off-chart path.front").count() == 1
    outside = """() => {
      const area = document.querySelector('#trade-off-chart clipPath rect').getBBox();
      const dots = [...document.querySelectorAll('#trade-off-chart circle.small')].map((dot) => dot.getBBox());
      return [dots.length, dots.filter((dot) => dot.y < area.y || dot.y + dot.height > area.y + area.height).length];
    }"""
    page.select_option("#choice-y", "simulated_s")  # the seeds differ more than the groups
    assert page.evaluate(outside) == [12, 0]  # each seed is within the chart
    page.select_option("#choice-y", "rounds")
    assert page.locator("#trade-off-chart path.dot").count() == 3


def test_everything_is_reached_by_the_tabulator_key(page):
    name_of = "e => (e.id || e.getAttribute('aria-label') || e.textContent).slice(0, 40)"
    reached = set()
    for _ in range(100):
        page.keyboard.press("Tab")
        reached.add(page.evaluate(f"({name_of})(document.activeElement)"))
    for name in (
        "skip to the results",
        "filter",
        "theme",
        "choice-metric",
        "choice-axis",
        "choice-x",
        "choice-y",
        "zoom in",
        "learning curves",
    ):
        assert name in reached, name


def script_functions(page, report):
    """Load the script's functions into an empty page, with the report's data."""
    folder = files("fedlit.reports.page") / "files"
    code = "\n".join((folder / name).read_text() for name in SCRIPTS if name != "main.js")
    page.add_script_tag(content=f"{code}\nconst data = {json.dumps(page_data(report))};")


def test_means_and_intervals_equal_those_of_the_report(browser, report):
    page = browser.new_page()
    script_functions(page, report)
    quantile = {6: 2.5705818, 3: 4.3026527}
    for i, group in enumerate(report.groups):
        for axis in ("rounds", "bytes", "simulated_s"):
            over = "rounds" if axis == "rounds" else axis
            expected = mean_curve(group.runs, "test/accuracy", over)
            band = page.evaluate("([i, axis]) => groupBand(i, 'test/accuracy', axis)", [i, axis])
            x = expected.pop("x")
            assert band["x"] == pytest.approx(x, rel=1e-5)
            values = np.array([*expected.values()])
            assert band["mean"] == pytest.approx(values.mean(0), rel=1e-4)
            half = quantile[len(values)] * values.std(0, ddof=1) / len(values) ** 0.5
            assert band["half"] == pytest.approx(half, rel=2e-3, abs=1e-5)
    page.close()


def test_front_of_the_page_equals_that_of_the_report(browser, report):
    page = browser.new_page()
    script_functions(page, report)
    for seed in range(4):
        points = np.random.default_rng(seed).integers(0, 6, (30, 2)).tolist()
        for is_max in ((False, True), (True, True), (False, False)):
            found = page.evaluate("([points, isMax]) => paretoFront(points, isMax)", [points, is_max])
            assert found == pareto_front([tuple(point) for point in points], is_max)
    page.close()
