"""The dashboard in a real Chromium: what people do with it, what attackers write into texts, and accessibility."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urljoin, urlsplit

import pandas as pd
import pytest

from interp_app.pages import PAGES
from interp_app.view import View
from tests.app.conftest import Served
from tests.browser import settled, telling

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Dialog, Page

PATIENCE = 20_000
"""Milliseconds that a page may take."""
PATHS = [page.path for page in PAGES]
GRID = "[id*=overview-grid][id*=graph]"
CELLS = f"{GRID} .hm image, {GRID} .heatmaplayer image"

Open = Callable[..., "Page"]


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the consoles of a test's pages complain of, and their scripts: nothing."""
    found: list[str] = []
    yield found
    assert found == []


@pytest.fixture(scope="module")
def usual(chromium: Browser) -> Iterator[BrowserContext]:
    """One browser whose cache is warm, for the tests that do not need one of their own."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    yield context
    context.close()


@pytest.fixture
def new_page(chromium: Browser, usual: BrowserContext, said: list[str]) -> Iterator[Open]:
    """A page of the usual browser; with options, of a new one, as other people have it."""
    contexts: list[BrowserContext] = []
    pages: list[Page] = []

    def made(*, own: bool = False, **options: Any) -> Page:
        context = usual
        if own or options:
            context = chromium.new_context(viewport={"width": 1280, "height": 800}, **options)
            contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        pages.append(page)
        return page

    yield made
    for page in pages:
        page.close()
    for context in contexts:
        context.close()


@pytest.fixture
def opened(served: Served, new_page: Open) -> Open:
    """Opens an address of the dashboard and waits until no panel is busy."""

    def open_page(path: str = "/", **options: Any) -> Page:
        page = new_page(**options)
        page.goto(served.address + path)
        settled(page)
        return page

    return open_page


def field(page: Page, name: str) -> str:
    """A field of the view in the address bar, "" where it is not there."""
    return parse_qs(urlsplit(page.url).query).get(name, [""])[0]


def address_has(page: Page, name: str, value: str) -> None:
    page.wait_for_function(
        "([name, value]) => (new URLSearchParams(location.search).get(name) || '') === value", arg=[name, value]
    )


def drawn(page: Page) -> str:
    """The title of the colours of the heads' grid, and its numbers: what it shows."""
    return page.eval_on_selector(
        f"{GRID} .js-plotly-plot, {GRID}.js-plotly-plot",
        "graph => JSON.stringify([graph.data[0].z, graph.layout.title])",
    )


def marked(page: Page) -> str:
    """The head that the orange frame in the grid is around."""
    return page.wait_for_function(
        """() => {
            const graph = document.querySelector("[id*=overview-grid] .js-plotly-plot, .js-plotly-plot[id*=overview-grid]");
            const frame = graph && (graph.layout.shapes || []).find(each => each.name === "current head");
            return frame ? `L${frame.y0 + 0.5}H${frame.x0 + 0.5}` : null;
        }"""
    ).json_value()


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_role("combobox", name=label).or_(page.locator(f"input[aria-label='{label}']")).first.click()
    page.get_by_role("option", name=option, exact=True).click()


# ------------------------------------------------------------------------------------------------ the first page


def test_the_first_page_is_not_empty(opened: Open):
    page = opened()
    assert page.locator(GRID).is_visible()
    assert page.locator(f"{GRID} .heatmaplayer image").count() == 1
    assert page.get_by_role("link", name=re.compile(r"^L\d+H\d+$")).count() == 12


def test_a_click_on_a_cell_opens_its_head(opened: Open, served: Served):
    page = opened()
    box = page.locator(f"{GRID} .heatmaplayer image").bounding_box()
    assert box is not None
    shape = served.workspace.loaded("demo").shape
    # The middle of the cell of layer 1, head 2; layer 0 is at the top.
    page.mouse.click(box["x"] + box["width"] * 2.5 / shape.heads, box["y"] + box["height"] * 1.5 / shape.layers)
    page.wait_for_url(re.compile(r"/head\?"))
    assert field(page, "head") == "L1H2"


def test_the_strongest_heads_are_links_for_the_keyboard(opened: Open):
    page = opened()
    link = page.get_by_role("link", name=re.compile(r"^L\d+H\d+$")).first
    name = link.inner_text()
    link.focus()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/head\?"))
    assert field(page, "head") == name


def test_another_detector_changes_colours_and_address(opened: Open):
    page = opened()
    before = drawn(page)
    choose(page, "Detector or statistic", "previous_token")
    address_has(page, "detector", "previous_token")
    page.wait_for_function(
        'before => { const graph = document.querySelector("[id*=overview-grid] .js-plotly-plot"); '
        "return graph?.data && JSON.stringify([graph.data[0].z, graph.layout.title]) !== before; }",
        arg=before,
    )


def test_a_link_reopens_the_view_in_another_browser(opened: Open):
    first = opened("/?detector=previous_token&text=twice")
    path = first.url.split("/", 3)[3]
    second = opened(f"/{path}", own=True)
    assert drawn(second) == drawn(first)
    assert second.locator("input[aria-label='Detector or statistic']").input_value() == "previous_token"
    assert second.locator("input[aria-label='Text']").input_value() == "The same passage twice (for induction)"


def test_the_back_button_leads_to_what_was_seen_before(opened: Open):
    page = opened("/?detector=previous_token")
    page.get_by_role("link", name="Text", exact=True).click()
    page.wait_for_url(re.compile(r"/text\?detector=previous_token"))
    settled(page)
    page.go_back()
    page.wait_for_url(re.compile(r"/\?detector=previous_token"))
    page.get_by_role("heading", level=1, name="Overview").wait_for()
    settled(page)
    assert page.locator("input[aria-label='Detector or statistic']").input_value() == "previous_token"


def test_the_back_button_leads_to_the_head_before(opened: Open):
    page = opened("/head?head=L1H2")
    page.wait_for_function("() => window.interp.state.place !== null")
    page.keyboard.press("ArrowRight")
    address_has(page, "head", "L1H3")
    page.go_back()
    address_has(page, "head", "L1H2")
    page.wait_for_function("() => window.interp.state.view.head === 'L1H2'")
    page.get_by_role("heading", name="L1H2").or_(page.get_by_text("L1H2", exact=True)).first.wait_for()


def test_a_wrong_address_says_so_and_shows_the_page(opened: Open):
    page = opened("/?head=nonsense&op=median")
    assert page.get_by_text(
        "the address is not one of this page: head: expected a head such as L2H5"
    ).first.is_visible()


def test_a_page_that_is_not_there_says_so(served: Served, new_page: Open):
    page = new_page()
    page.goto(f"{served.address}/no/such/page")
    page.wait_for_selector("text=/404|not found/i")


# ---------------------------------------------------------------------------------------------------------- keys


def test_slash_searches_a_head(opened: Open):
    page = opened()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("l1h5")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/head\?"))
    assert field(page, "head") == "L1H5"


def test_a_search_for_what_is_not_there_says_so_by_the_field(opened: Open):
    page = opened()
    for sought, why in (("L99H1", "has no head L99H1"), ("zzzzzz", "no token of the text")):
        page.locator("#search").fill(sought)
        page.keyboard.press("Enter")
        page.locator(".mantine-TextInput-error").get_by_text(why).wait_for()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement === document.body")


def test_a_question_mark_lists_the_keys_and_escape_closes_them(opened: Open):
    page = opened()
    page.keyboard.press("?")
    page.get_by_role("dialog").wait_for()
    assert "search: a head such as L5H1" in page.get_by_role("dialog").inner_text()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="hidden")


def test_arrows_move_over_the_heads_and_enter_opens_one(opened: Open):
    page = opened("/?head=L1H2")
    page.wait_for_function("() => window.interp.state.place !== null")
    for key, head in (("ArrowRight", "L1H3"), ("ArrowDown", "L2H3"), ("ArrowLeft", "L2H2"), ("ArrowUp", "L1H2")):
        page.keyboard.press(key)
        address_has(page, "head", head)
        assert page.locator("#announce").inner_text() == f"Head {head}"
        assert marked(page) == head
    choose(page, "Detector or statistic", "previous_token")
    address_has(page, "detector", "previous_token")
    settled(page)
    assert marked(page) == "L1H2"  # in the other figure, too
    page.locator("h1").click()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/head\?"))


def test_arrows_stop_at_the_edges(opened: Open, served: Served):
    shape = served.workspace.loaded("demo").shape
    page = opened("/?head=L0H0")
    page.wait_for_function("() => window.interp.state.place !== null")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    for _ in range(shape.heads + 2):
        page.keyboard.press("ArrowRight")
    address_has(page, "head", f"L0H{shape.heads - 1}")


def test_keys_do_nothing_while_one_types(opened: Open):
    page = opened("/text")
    page.locator("#text-input").click()
    page.keyboard.type("a?b/c")
    assert "a?b/c" in page.locator("#text-input").input_value()
    assert page.get_by_role("dialog").count() == 0


# --------------------------------------------------------------------------------------------- taking things away


def test_the_call_is_copied_as_python(opened: Open):
    page = opened("/?detector=previous_token", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy the call that makes this in a notebook").first.click()
    page.wait_for_function("() => document.getElementById('announce').textContent === 'Python copied'")
    copied = page.evaluate("navigator.clipboard.readText()")
    compile(copied, "copied", "exec")
    assert "interp.load('demo')" in copied
    assert "previous_token" in copied


def test_the_link_is_copied(opened: Open):
    page = opened("/?detector=previous_token", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy link").click()
    page.wait_for_function("() => document.getElementById('announce').textContent === 'Link copied'")
    assert page.evaluate("navigator.clipboard.readText()") == page.url


def test_numbers_and_pictures_arrive(opened: Open, tmp_path: Path):
    page = opened("/?detector=previous_token")

    def saved(button: str) -> Path:
        with page.expect_download() as coming:
            page.get_by_role("button", name=f"Save the {button}").click()
        place = tmp_path / coming.value.suggested_filename
        coming.value.save_as(place)
        return place

    csv = saved("numbers of “All heads” as CSV")
    assert csv.name == "overview-grid.csv"
    frame = pd.read_csv(csv)
    assert set(frame["detector"]) == {"previous_token"}
    assert {"layer", "head", "score", "chance"} <= set(frame)
    png, svg = saved("figure of “All heads” as PNG"), saved("figure of “All heads” as SVG")
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert png.stat().st_size > 5000
    assert "<svg" in svg.read_text(encoding="utf-8")[:200]


# ---------------------------------------------------------------------------------------------------------- texts


def read(page: Page, text: str) -> None:
    """Type a text and read it."""
    page.locator("#text-input").fill(text)
    page.get_by_role("button", name="Read this text").click()


def test_a_text_that_is_typed_is_read(opened: Open, served: Served):
    page = opened("/text")
    read(page, "The keeper lit the lamp, and the lamp lit the keeper.")
    page.wait_for_url(re.compile(r"text=[0-9a-f]{16}"))
    settled(page)
    assert served.workspace.texts.get(field(page, "text")).content.startswith("The keeper lit")
    page.locator("[id*=text-losses][id*=graph]").wait_for()
    page.get_by_text("mean loss").wait_for()
    assert page.locator("input[aria-label='Text']").input_value().startswith("The keeper lit the lamp")


def test_an_empty_text_is_refused_by_the_field(opened: Open):
    page = opened("/text")
    read(page, "   ")
    page.get_by_role("alert").get_by_text("the text is empty").wait_for()
    assert not field(page, "text")


def test_a_file_is_uploaded_and_one_that_is_no_text_is_refused(opened: Open, tmp_path: Path):
    page = opened("/text")
    (tmp_path / "latin.txt").write_bytes("caf\xe9 au lait".encode("latin-1"))
    (tmp_path / "good.txt").write_bytes("\ufeffA file, with a café in it.\r\nTwo lines.".encode())
    page.set_input_files("#text-upload input[type=file]", tmp_path / "latin.txt")
    page.get_by_role("alert").get_by_text("'latin.txt' is not text in UTF-8").wait_for()
    page.set_input_files("#text-upload input[type=file]", tmp_path / "good.txt")
    page.wait_for_url(re.compile(r"text=[0-9a-f]{16}"))
    page.wait_for_function("() => document.getElementById('text-input').value.startsWith('A file, with a café')")
    settled(page)


HOSTILE = {
    "script": "</script><script>window.hacked = 1</script> and more words",
    "image": '<img src=x onerror="window.hacked = 1"> <svg onload=alert(1)> some words',
    "markdown": "# Title\n**bold** [link](javascript:window.hacked=1) ![x](x) `code` <b>b</b> &lt;i&gt;",
    "right to left": "\u202egnirts \u2066isolated\u2069 \u200e marks \u200f of direction",
    "long word": "lamp " + "x" * 10_000 + " end",
    "template": "{{7*7}} ${7*7} <%= 7*7 %> %s {0} some words",
    "controls": "bell\x07 escape\x1b[31m delete\x7f some words",
    "plotly": "<a href='javascript:window.hacked=1'>x</a> <sub>y</sub> <br> $\\frac{1}{2}$ some words",
}


# One page for all of the short ones; the long word has one of its own, to see that nothing is pushed aside.
GIVEN = {
    "marks": "\n\n".join(text for name, text in HOSTILE.items() if name != "long word"),
    "word": HOSTILE["long word"],
}


@pytest.mark.parametrize("name", GIVEN)
def test_hostile_texts_are_shown_as_text(opened: Open, name: str):
    page = opened("/text")
    dialogs: list[str] = []

    def said(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", said)
    read(page, GIVEN[name])
    page.wait_for_url(re.compile(r"text=[0-9a-f]{16}"))
    for path in PATHS:
        page.goto(urljoin(page.url, f"{path}?text={field(page, 'text')}"))
        settled(page)
        made = page.evaluate(
            "() => ({hacked: window.hacked || null, "
            'images: document.querySelectorAll(\'#page img:not([src^="data:"]):not([src^="blob:"])\').length, '
            "links: document.querySelectorAll('a[href^=\"javascript:\"]').length, "
            "scripts: [...document.scripts].filter(each => each.textContent.includes('hacked')).length, "
            "handlers: document.querySelectorAll('[onload],[onerror]').length, "
            "wide: document.documentElement.scrollWidth - document.documentElement.clientWidth})"
        )
        assert made == {"hacked": None, "images": 0, "links": 0, "scripts": 0, "handlers": 0, "wide": 0}, path
    assert not dialogs


@pytest.mark.parametrize(
    "query",
    ["model=<img src=x onerror=alert(1)>", "scan=<svg onload=alert(1)>", "detector=javascript:alert(1)", "page=1"],
)
def test_hostile_addresses_are_shown_as_text(opened: Open, query: str):
    page = opened("/scans?" + query)
    assert page.evaluate("document.querySelectorAll('#page img, #page svg[onload], [onerror]').length") == 0
    assert page.get_by_role("heading", level=1).inner_text() == "Scans"


# ---------------------------------------------------------------------------------------------------------- scans


def test_a_stored_scan_is_opened_and_taken_away(opened: Open, tmp_path: Path):
    page = opened("/scans")
    page.get_by_role("gridcell", name="demo", exact=True).first.click()
    address_has(page, "scan", "demo")
    page.locator("[id*=scans-grid][id*=graph]").wait_for()
    with page.expect_download() as coming:
        page.get_by_role("button", name="Parquet").click()
    coming.value.save_as(tmp_path / "scores.parquet")
    frame = pd.read_parquet(tmp_path / "scores.parquet")
    assert set(frame["detector"]) == {"induction", "previous_token"}


# --------------------------------------------------------------------------------------------- light, dark, axe


def test_dark_stays_dark(opened: Open):
    page = opened()
    page.get_by_role("button", name="Light or dark").click()
    page.wait_for_selector(":root[data-mantine-color-scheme=dark]")
    page.wait_for_function(
        "() => { const graph = document.querySelector('[id*=overview-grid] .js-plotly-plot'); "
        "return graph?.layout?.font?.color === '#c9d1d9'; }"
    )
    page.reload()
    settled(page)
    assert page.locator(":root[data-mantine-color-scheme=dark]").count() == 1


def test_the_scheme_of_the_system_is_followed(opened: Open):
    assert opened(color_scheme="dark").locator(":root[data-mantine-color-scheme=dark]").count() == 1
    assert opened(color_scheme="light").locator(":root[data-mantine-color-scheme=light]").count() == 1


def test_tables_are_dark_on_a_dark_page(opened: Open):
    page = opened("/scans", color_scheme="dark")
    page.get_by_role("gridcell", name="demo", exact=True).first.wait_for()
    colour = page.eval_on_selector(".ag-root-wrapper", "table => getComputedStyle(table).backgroundColor")
    assert max(int(part) for part in re.findall(r"\d+", colour)[:3]) < 100, colour


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", [*PATHS, "/scans?scan=demo"])
def test_pages_have_no_serious_barriers(opened: Open, path: str, scheme: str):
    """axe-core's rules of WCAG and good practice."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = opened(path, color_scheme=scheme)
    found = [
        f"{rule['id']} ({rule['impact']}): {rule['help']}: {[node['html'][:160] for node in rule['nodes'][:4]]}"
        for rule in axe.run(page).response["violations"]
        if rule["impact"] in ("serious", "critical")
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("width", [1280, 1920])
def test_pages_fit_the_screen(opened: Open, path: str, width: int):
    page = opened(path)
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


# ----------------------------------------------------------------------------------------------- several browsers


def test_several_browsers_get_answers_at_once(served: Served, new_page: Open):
    """Four texts read at once: every browser shows its own."""
    pages = []
    for number in range(4):
        text = served.workspace.texts.add(f"Browser number {number} reads this. " * (number + 3))
        page = new_page(own=True)
        page.set_default_timeout(3 * PATIENCE)  # four that start at once share the processor
        page.goto(f"{served.address}/text{View(text=text.id).to_search()}", wait_until="commit")
        pages.append((page, text))
    for page, text in pages:
        with telling(page):
            settled(page)
            page.get_by_text(f"{len(text.content):,}", exact=True).first.wait_for()
            page.locator("[id*=text-losses][id*=graph]").wait_for()
