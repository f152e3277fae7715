"""The page in a real browser: everything is drawn, nothing is asked for, nothing hostile runs."""

from __future__ import annotations

import os
import shutil

import pytest

from sinkscope.report.page import render_page
from sinkscope.report.text import token_text
from tests.circuit_fixture import build_circuit
from tests.report_fixture import HOSTILE, build_result
from tests.timeline_fixture import build_timeline

pytestmark = pytest.mark.browser
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
DRAWN = """document.documentElement.dataset.charts === 'drawn' &&
  [...document.querySelectorAll('[data-chart]')].every((one) => one.closest('.part:not([open])') ||
    one.childElementCount || one.textContent)"""
MAPPED = "document.documentElement.dataset.map === 'drawn'"


def chromium() -> str | None:
    """Path of an installed Chromium; SINKSCOPE_CHROMIUM overrides."""
    chosen = os.environ.get("SINKSCOPE_CHROMIUM")
    return chosen or next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="module")
def browser():
    path = chromium()
    if path is None:
        pytest.skip(
            "the page in a browser: no Chromium here; have it (apt install chromium, brew install"
            " --cask chromium), or give its path in SINKSCOPE_CHROMIUM"
        )
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    other = build_result(sinks=False, seed=5)
    path.write_text(render_page(build_result(), other), encoding="utf-8")
    return path.as_uri()


class Opened:
    """A page with all parts open, with everything it said and asked for."""

    def __init__(self, browser, address, folded=False, **options):
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page = browser.new_page(**options)
        self.page.set_default_timeout(180_000)  # machines that are busy with other tests
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append("dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address)
        self.page.wait_for_function(DRAWN)
        if not folded:
            self.page.locator("#fold").click()
            self.page.wait_for_function(DRAWN)

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()


@pytest.fixture
def opened(browser, address):
    found = Opened(browser, address, color_scheme="light")
    yield found
    found.page.close()


def test_every_chart_is_drawn_with_no_message_and_no_request(opened, address):
    page = opened.page
    page.wait_for_function(MAPPED)
    figures = page.locator("[data-chart]")
    assert figures.count() >= 2 * 15
    sizes = page.evaluate(
        """[...document.querySelectorAll('[data-chart]')].map((element) => {
          const svg = element.querySelector('svg');
          const box = svg ? svg.getBoundingClientRect() : { width: 0, height: 0 };
          const marks = element.querySelectorAll('.mark-rect path, .mark-line path, ' +
            '.mark-symbol path, .mark-area path').length;
          return [element.dataset.chart, box.width, box.height, marks];
        })"""
    )
    for name, width, height, marks in sizes:
        assert width > 250, name
        assert height > 80, name
        assert marks > 0, name
    assert opened.said == []
    assert opened.asked == [address]


def test_every_measure_can_be_drawn(opened):
    page = opened.page
    select = page.locator("[data-select=heat]")
    captions = set()
    for number in range(select.locator("option").count()):
        select.select_option(str(number))
        page.wait_for_function(DRAWN)
        captions.add(opened.text("[data-figure=heat] figcaption"))
        assert page.locator("[data-chart=heat] .mark-rect path").count() > 10
    assert len(captions) == 7
    assert opened.said == []


def test_hostile_tokens_are_shown_and_not_run(opened):
    page = opened.page
    page.wait_for_function(MAPPED)
    shown = page.locator("#map-tokens span").all_inner_texts()
    assert shown[: len(HOSTILE)] == [token_text(token) for token in HOSTILE]
    assert "<script>alert(1)</script>" in opened.text("#elsewhere")
    assert "org/<b>tiny</b>-model" in opened.text("h1")
    assert page.locator("main img").count() == 0
    assert page.locator("script").count() == 3
    assert opened.said == []


def test_an_injected_script_is_stopped_by_the_policy(opened):
    page = opened.page
    page.evaluate(
        """() => {
          const script = document.createElement('script');
          script.textContent = 'window.ran = true';
          document.body.append(script);
        }"""
    )
    assert page.evaluate("window.ran === undefined")
    assert any("Content Security Policy" in message for message in opened.said)


def test_keyboard_reaches_and_moves_the_selectors(opened):
    page = opened.page
    page.wait_for_function(MAPPED)
    before = opened.text("[data-figure=heat] figcaption")
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.dataset.select || ''"))
        if seen[-1] == "heat":
            break
    assert seen[-1] == "heat"
    page.keyboard.press("ArrowDown")
    page.wait_for_function(DRAWN)
    assert opened.text("[data-figure=heat] figcaption") != before


def test_keyboard_moves_through_the_attention_map(opened):
    page = opened.page
    page.wait_for_function(MAPPED)
    page.locator("#map-frame").focus()
    first = opened.text("#map-read")
    assert "query 23" in first
    assert "to key 0 " in first
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    moved = opened.text("#map-read")
    assert "query 22" in moved
    assert "to key 1 " in moved
    for _ in range(30):
        page.keyboard.press("ArrowUp")
    assert "query 0 " in opened.text("#map-read")
    assert "to key 0 " in opened.text("#map-read")  # never right of the diagonal


def test_map_shows_the_stored_attention_of_the_chosen_head(opened):
    page = opened.page
    page.wait_for_function(MAPPED)
    page.locator("#map-block").select_option("3")
    page.locator("#map-head").select_option("2")
    page.locator("#map-example").select_option(index=1)
    stored = build_result().data["scan/with"]["map"].values[1, 3, 2]
    shown = opened.text("#map-read")
    assert f"gives {100 * int(stored[23, 0]) / 255:.1f}\u00a0% to key 0 " in shown
    page.locator("#map-bos").select_option("without")
    stored = build_result().data["scan/without"]["map"].values[1, 3, 2]
    page.wait_for_function(
        "value => document.getElementById('map-read').textContent.includes(value)",
        arg=f"gives {100 * int(stored[23, 0]) / 255:.1f}\u00a0%",
    )
    assert opened.said == []


def test_a_click_on_a_tile_opens_its_map(opened):
    page = opened.page
    page.wait_for_function(MAPPED)
    tile = page.locator("[data-chart=heat][data-bos=without] .mark-rect.role-mark path").nth(9)
    tile.scroll_into_view_if_needed()
    tile.click()
    page.wait_for_function("document.getElementById('map-bos').value === 'without'")
    chosen = [page.locator(f"#map-{name}").input_value() for name in ("block", "head")]
    assert chosen == ["2", "1"]


def test_dark_theme_follows_the_system_and_the_button(browser, address):
    opened = Opened(browser, address, color_scheme="dark")
    page = opened.page
    paper = "getComputedStyle(document.body).backgroundColor"
    label = "document.querySelector('[data-chart=norm] text').getAttribute('fill')"
    dark = page.evaluate(paper), page.evaluate(label)
    page.locator("#theme").focus()
    page.keyboard.press("Enter")
    page.wait_for_function(DRAWN)
    light = page.evaluate(paper), page.evaluate(label)
    assert light[0] == "rgb(255, 255, 255)"
    assert sum(map(int, dark[0][4:-1].split(","))) < 100
    assert light[1] != dark[1]
    assert opened.text("#theme") == "Dark theme"
    assert opened.said == []
    page.close()


def test_paper_is_light_and_a_phone_needs_no_sideways_scrolling(browser, address):
    opened = Opened(browser, address, color_scheme="dark", viewport={"width": 375, "height": 800})
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.close()


@pytest.fixture(scope="module")
def circuit(tmp_path_factory):
    path = tmp_path_factory.mktemp("circuit") / "report.html"
    path.write_text(render_page(build_circuit(policies=("without",))), encoding="utf-8")
    return path.as_uri()


def test_circuit_is_drawn_explains_itself_and_asks_for_nothing(browser, circuit):
    opened = Opened(browser, circuit, color_scheme="light")
    page = opened.page
    node = page.locator("svg.circuit circle[data-tip^='Block 1, neuron 58']")
    node.hover()
    assert "34.0" in opened.text("#tip")
    page.mouse.move(1, 1)
    assert page.locator("#tip").is_hidden()
    node.focus()  # and without a mouse
    assert "neuron 58" in opened.text("#tip")
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()
    empty = page.evaluate(
        """[...document.querySelectorAll('[data-chart]')].filter((element) => !element
          .querySelector('.mark-rect path, .mark-line path, .mark-symbol path, .mark-area path'))
          .map((element) => element.dataset.chart)"""
    )
    assert empty == []
    assert opened.said == []
    assert opened.asked == [circuit]
    page.close()


def test_labels_of_the_circuit_lie_within_it_and_apart(browser, circuit):
    opened = Opened(browser, circuit)
    boxes = opened.page.evaluate(
        """(() => {
          const sheet = document.querySelector('svg.circuit').getBoundingClientRect();
          return [...document.querySelectorAll('svg.circuit text')].map((text) => {
            const box = text.getBoundingClientRect();
            return [text.textContent, box.left - sheet.left, box.top - sheet.top,
              box.right - sheet.left, box.bottom - sheet.top, sheet.width, sheet.height];
          });
        })()"""
    )
    assert len(boxes) > 20
    for text, left, top, right, bottom, width, height in boxes:
        assert left >= 0, text
        assert top >= 0, text
        assert right <= width, text
        assert bottom <= height, text
    for i, one in enumerate(boxes):
        for other in boxes[i + 1 :]:
            across = min(one[3], other[3]) - max(one[1], other[1])
            down = min(one[4], other[4]) - max(one[2], other[2])
            assert across <= 0.5 or down <= 3, (one[0], other[0])  # line boxes may touch
    opened.page.close()


@pytest.mark.parametrize("width", [1280, 400])
def test_words_in_a_box_of_the_circuit_do_not_touch_its_frame(browser, circuit, width):
    opened = Opened(browser, circuit, viewport={"width": width, "height": 800})
    rooms = opened.page.evaluate(
        """(() => {
          const seen = [...document.querySelectorAll('svg')].filter((svg) => svg.clientWidth);
          const drawn = seen.find((svg) => svg.classList[0]?.startsWith('circuit'));
          const at = (element) => element.getBoundingClientRect();
          const boxes = [...drawn.querySelectorAll('rect[rx="5"]')].map(at);
          const within = (box, word) => word.top > box.top && word.bottom < box.bottom
            && Math.abs(word.left + word.right - box.left - box.right) < 4;
          return [...drawn.querySelectorAll('text')].flatMap((text) =>
            boxes.filter((box) => within(box, at(text))).map((box) => [text.textContent,
              Math.min(at(text).left - box.left, box.right - at(text).right)]));
        })()"""
    )
    assert len(rooms) > 4
    assert [text for text, room in rooms if room < 3] == []
    opened.page.close()


def test_circuit_on_a_phone_in_the_dark_and_on_paper(browser, circuit):
    options = {"color_scheme": "dark", "viewport": {"width": 375, "height": 800}}
    opened = Opened(browser, circuit, **options)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    colour = "getComputedStyle(document.querySelector('svg.circuit text')).fill"
    dark = page.evaluate(colour)
    page.emulate_media(media="print")
    assert page.evaluate(colour) != dark
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("[...document.querySelectorAll('.tables details')].every((d) => d.open)")
    page.close()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("timeline")
    path = folder / "report.html"
    path.write_text(render_page(build_timeline(folder, runs=3)), encoding="utf-8")
    return path.as_uri()


def test_timeline_is_drawn_over_the_axis_that_is_chosen(browser, trained):
    opened = Opened(browser, trained, viewport={"width": 390, "height": 800})
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    title = "[data-chart=timeline-{}] .role-axis-title text"
    for name in ("course", "loss", "bands"):
        assert "steps (log)" in " ".join(page.locator(title.format(name)).all_text_contents())
    page.locator("[data-figure=timeline-loss] [data-axis]").select_option("tokens, linear")
    page.wait_for_function(DRAWN)
    for name in ("course", "loss", "bands"):  # charts below each other keep one axis
        shown = " ".join(page.locator(title.format(name)).all_text_contents())
        assert "Training, tokens" in shown
        assert "(log)" not in shown
    caption = opened.text("[data-figure=timeline-course] figcaption")
    page.locator("[data-figure=timeline-course] [data-select]").select_option("Norm of P0")
    page.wait_for_function(DRAWN)
    assert opened.text("[data-figure=timeline-course] figcaption") != caption
    shown = page.locator(title.format("course")).all_text_contents()
    assert any("‖P0‖" in text for text in shown)
    assert any("tokens" in text for text in shown)
    assert opened.said == []
    assert opened.asked == [trained]
    page.close()


# ---- every page at both widths and in both themes -----------------------------------------------


SCREENS = [(width, scheme) for width in (1280, 400) for scheme in ("light", "dark")]


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_no_part_overflows_or_is_empty(browser, circuit, width, scheme):
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 900}}
    opened = Opened(browser, circuit, **options)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    empty = page.evaluate(
        """[...document.querySelectorAll('[data-chart]')].filter((one) => !one.querySelector('svg')
          || one.getBoundingClientRect().height < 80).map((one) => one.dataset.chart)"""
    )
    assert empty == []
    cut = page.evaluate(  # numbers that lie outside the screen and outside what scrolls
        """[...document.querySelectorAll('td.number')].filter((one) => {
          const box = one.getBoundingClientRect();
          return box.width && box.right > innerWidth + 1 && innerWidth < 500;
        }).map((one) => one.textContent)"""
    )
    assert cut == []
    shown = ["circuit", "circuit-narrow"][width < 560]
    assert page.locator(f"svg.{shown}").is_visible()
    size = page.evaluate(
        f"""Math.min(...[...document.querySelectorAll('svg.{shown} text')].map((one) =>
          one.getBoundingClientRect().height))"""
    )
    assert size > 9  # px: small, and still read
    assert opened.said == []
    page.close()


def test_a_page_opens_folded_and_short(browser, circuit):
    opened = Opened(browser, circuit, folded=True, viewport={"width": 1280, "height": 900})
    page = opened.page
    assert page.evaluate("document.documentElement.scrollHeight") < 12_000
    first = page.locator("#answer").bounding_box()
    assert first["y"] < 300
    assert page.locator("#answer .keys dd.value").count() == 4
    assert page.locator("#answer svg.circuit").is_visible()
    summary = page.locator("#necessity summary").first
    assert page.locator("#necessity [data-chart]").first.is_hidden()
    summary.focus()
    page.keyboard.press("Enter")
    page.locator("#necessity [data-chart] svg").first.wait_for()
    page.keyboard.press("Enter")
    assert page.locator("#necessity [data-chart]").first.is_hidden()
    assert opened.said == []
    page.close()


def test_a_link_opens_the_part_it_leads_to(browser, circuit):
    page = Opened(browser, f"{circuit}#tests", folded=True).page
    assert page.locator("#tests > .part").get_attribute("open") is not None
    assert page.locator("#sufficiency > .part").get_attribute("open") is None
    page.close()


def test_two_results_stand_in_one_notebook(browser, tmp_path):
    frames = "".join(result._repr_html_() for result in (build_result(), build_circuit()))
    path = tmp_path / "notebook.html"
    path.write_text(f"<!DOCTYPE html><p id=own>mine</p>{frames}", encoding="utf-8")
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(path.as_uri())
    for frame in page.frames[1:]:
        frame.wait_for_function(DRAWN)
        assert frame.locator("#answer").is_visible()
    assert len(page.frames) == 3
    assert page.locator("body > *").count() == 3  # nothing of the reports leaves its frame
    assert page.evaluate("getComputedStyle(document.querySelector('#own')).fontFamily") != ""
    assert said == []
    page.close()


@pytest.fixture(scope="module")
def axe() -> str:
    """The accessibility checker axe-core, from the file that SINKSCOPE_AXE names."""
    path = os.environ.get("SINKSCOPE_AXE", "node_modules/axe-core/axe.min.js")
    if not os.path.isfile(path):
        pytest.skip("axe-core was not found: npm install axe-core, or name it in SINKSCOPE_AXE")
    with open(path, encoding="utf-8") as source:
        return source.read()


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
@pytest.mark.parametrize("which", ["circuit", "trained", "address"])
def test_axe_finds_nothing_serious(request, browser, axe, which, width, scheme):
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 900}}
    opened = Opened(browser, request.getfixturevalue(which), bypass_csp=True, **options)
    assert serious(opened, axe) == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    opened.page.close()


def serious(opened, axe: str) -> list:
    """What axe-core calls moderate, serious or critical on a page."""
    opened.page.add_script_tag(content=axe)
    found = opened.page.evaluate("axe.run()")["violations"]
    return [
        (one["id"], one["help"], [n["html"][:150] for n in one["nodes"][:3]])
        for one in found
        if one["impact"] in ("moderate", "serious", "critical")
    ]
