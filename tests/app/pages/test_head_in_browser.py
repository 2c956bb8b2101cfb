"""The Head page in a real Chromium: zoom by dragging and back, a token locked and released, keys, and a silent console."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from interp_app.view import View
from tests.app.conftest import Served
from tests.app.ready import ready
from tests.browser import settled

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MAP = 'document.querySelector(\'[id*="head-map"][id*="graph"] .js-plotly-plot, [id*="head-map"][id*="graph"].js-plotly-plot\')'
TOKENS = 860
"""Of the built-in text."""


@pytest.fixture(scope="module")
def page(served: Served, chromium: Browser) -> Iterator[Page]:
    """The page of L2H5, drawn. What the console complains of fails the module's last test."""
    assert len(ready(lambda: served.workspace.reading(View())).tokens) == TOKENS
    said: list[str] = []
    context = chromium.new_context(viewport={"width": 1440, "height": 1300})
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"{served.address}/head?head=L2H5")
    page.wait_for_function(f"() => {MAP}?.layout?.meta")
    page.wait_for_selector(".itv-token")
    settled(page)
    yield page
    context.close()
    assert said == []


def shown(page: Page) -> dict[str, list[int]]:
    return json.loads(page.evaluate(f"() => JSON.stringify({MAP}.layout.meta)"))


def until_shown(page: Page, rows: int) -> dict[str, list[int]]:
    """What the map shows once it has at most so many queries."""
    page.wait_for_function(f"most => {{ const [a, b] = {MAP}.layout.meta.rows; return b - a <= most; }}", arg=rows)
    return shown(page)


def field(page: Page, name: str) -> str:
    return parse_qs(urlsplit(page.url).query).get(name, [""])[0]


def address_has(page: Page, name: str, value: str) -> None:
    page.wait_for_function(
        "([name, value]) => (new URLSearchParams(location.search).get(name) || '') === value", arg=[name, value]
    )


def dragged(page: Page, first: tuple[float, float], last: tuple[float, float]) -> None:
    """A box from one place of the map to another, as shares of its sides."""
    page.wait_for_timeout(400)  # two presses within 300 ms are a double click
    box = page.locator("[id*=head-map] .nsewdrag").first.bounding_box()
    assert box is not None
    for place, then in ((first, page.mouse.down), (last, page.mouse.up)):
        page.mouse.move(box["x"] + place[0] * box["width"], box["y"] + place[1] * box["height"], steps=4)
        then()


def test_dragging_shows_the_box_and_the_address_holds_it(page: Page):
    page.locator("[id*=head-map] .nsewdrag").first.scroll_into_view_if_needed()
    dragged(page, (0.25, 0.5), (0.5, 0.75))
    found = until_shown(page, TOKENS // 3)
    # Queries of the third quarter, keys of the second, within what two pixels of 560 and a square of 2 are.
    for side, share in (("rows", 0.5), ("cols", 0.25)):
        assert found[side] == pytest.approx([share * TOKENS, (share + 0.25) * TOKENS], abs=6)
    page.wait_for_function("() => new URLSearchParams(location.search).get('rows')")
    first, end = map(int, field(page, "rows").split("-"))
    assert found["rows"][0] <= first < end <= found["rows"][1]


def test_zooming_on_ends_at_single_weights_with_their_tokens(page: Page):
    dragged(page, (0.3, 0.3), (0.4, 0.4))
    until_shown(page, 40)
    assert page.evaluate(f"() => {MAP}.layout.title.subtitle.text").startswith("single cells")
    assert page.evaluate(f"() => {MAP}.layout.yaxis.ticktext.length") == len(range(*shown(page)["rows"]))


def test_the_graph_is_the_same_one_all_along(page: Page):
    page.evaluate(f"() => {{ {MAP}.markedByTest = true; }}")
    before = shown(page)["rows"]
    page.get_by_role("button", name="Zoom out by two").click()
    page.wait_for_function(f"before => {MAP}.layout.meta.rows[0] < before", arg=before[0])
    assert page.evaluate(f"() => {MAP}.markedByTest")


def test_a_double_click_shows_all(page: Page):
    page.wait_for_timeout(400)
    box = page.locator("[id*=head-map] .nsewdrag").first.bounding_box()
    assert box is not None
    page.mouse.dblclick(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    page.wait_for_function(f"all => {MAP}.layout.meta.rows[1] - {MAP}.layout.meta.rows[0] === all", arg=TOKENS)
    address_has(page, "rows", "")
    address_has(page, "cols", "")


def test_a_click_locks_a_token_and_escape_releases_it(page: Page):
    page.locator(".itv-token").nth(40).click()
    address_has(page, "lock", "40")
    assert page.locator(".itv-locked").count() == 1
    # From anywhere on the page, not from the strip alone.
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("Escape")
    page.wait_for_function("() => !document.querySelector('.itv-locked')")
    address_has(page, "lock", "")


def test_hiding_special_tokens_is_in_the_address_and_a_view_shows_them_again(page: Page):
    # The first token is one, and locked: hidden, it is released.
    page.locator(".itv-token").first.click()
    address_has(page, "lock", "0")
    page.get_by_label("hide special tokens").check()
    address_has(page, "special", "0")
    address_has(page, "lock", "")
    assert not page.locator(".itv-token").first.is_visible()
    page.evaluate("() => window.interp.change({ special: true })")
    address_has(page, "special", "")
    assert page.locator(".itv-token").first.is_visible()
    assert not page.get_by_label("hide special tokens").is_checked()


def test_the_strip_pages_and_keeps_a_lock_that_is_jumped_to(page: Page):
    page.get_by_role("button", name="later →").click()
    address_has(page, "start", "256")
    page.wait_for_function("() => document.querySelector('.itv-window')?.textContent.startsWith('Tokens 256 to 511')")
    page.evaluate("() => window.interp.change({ start: 600, lock: 610 })")
    page.wait_for_function("() => document.querySelector('.itv-window')?.textContent.startsWith('Tokens 600')")
    page.wait_for_selector(".itv-locked")
    assert field(page, "lock") == "610"


def test_arrows_lead_to_other_heads(page: Page):
    page.wait_for_function("() => window.interp.state.place")
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("ArrowUp")
    page.wait_for_function("() => document.getElementById('head-name')?.textContent === 'L1H5'")
    assert field(page, "head") == "L1H5"
    page.wait_for_function(f"() => {MAP}?.layout?.title?.text === 'L1H5'")
    page.wait_for_function("() => document.querySelector('.itv-title')?.textContent === 'L1H5'")
