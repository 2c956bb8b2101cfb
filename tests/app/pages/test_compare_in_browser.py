"""The Compare page in a real Chromium: maps that are zoomed and panned together, and a list of texts that is never old."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from interp_app.view import View
from tests.app.conftest import Served
from tests.app.ready import ready
from tests.browser import settled

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PANELS = ("compare-first", "compare-second", "compare-difference")
PLACES = f"""() => {json.dumps(PANELS)}.map(name => {{
    const graph = document.querySelector(`[id*="${{name}}"] .js-plotly-plot`);
    return graph?.layout?.meta
        && [graph.layout.meta, graph.layout.xaxis.range, graph.layout.yaxis.range, graph.layout.yaxis.ticktext];
}})"""


@pytest.fixture(scope="module")
def page(served: Served, chromium: Browser) -> Iterator[Page]:
    """The page of two heads, drawn. What the console complains of fails the module's last test."""
    view = View(head="L2H5", other="L1H2")
    ready(lambda: served.workspace.reading(view))
    said: list[str] = []
    context = chromium.new_context(viewport={"width": 1440, "height": 1300})
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"{served.address}/compare{view.to_search()}")
    page.wait_for_function(f"() => ({PLACES})().every(Boolean)")
    settled(page)
    yield page
    context.close()
    assert said == []


def together(page: Page, rows: list[int], cols: list[int]) -> None:
    """Wait until all maps show this place, their axes just so."""
    page.wait_for_function(
        f"""([rows, cols]) => ({PLACES})().every(each => {{
            if (!each) return false;
            const [meta, x, y] = each;
            const near = (one, other) => one.every((end, at) => Math.abs(end - other[at]) < 0.01);
            return near(meta.rows, rows) && near(meta.cols, cols)
                && near(x, [cols[0] - 0.5, cols[1] - 0.5]) && near(y, [rows[1] - 0.5, rows[0] - 0.5]);
        }})""",
        arg=[rows, cols],
    )


def address_has(page: Page, rows: str, cols: str) -> None:
    page.wait_for_function(
        "([rows, cols]) => { const found = new URLSearchParams(location.search); "
        "return (found.get('rows') || '') === rows && (found.get('cols') || '') === cols; }",
        arg=[rows, cols],
    )


def test_a_box_in_one_map_zooms_all_of_them_to_labelled_tokens(page: Page):
    size = page.evaluate(f"() => ({PLACES})()[0][0].shape[0]")
    together(page, [0, size], [0, size])
    page.evaluate("() => window.interp.change({ rows: '100-160', cols: '80-140' })")
    together(page, [100, 160], [80, 140])
    drag = page.locator("[id*=compare-second] .nsewdrag").first
    drag.scroll_into_view_if_needed()
    box = drag.bounding_box()
    assert box is not None
    # From the middle of a token to the middle of another: 60 of them are along a side.
    for (across, down), then in (((10.5, 20.5), page.mouse.down), ((39.5, 49.5), page.mouse.up)):
        page.mouse.move(box["x"] + across / 60 * box["width"], box["y"] + down / 60 * box["height"], steps=4)
        then()
    address_has(page, "120-150", "90-120")
    together(page, [120, 150], [90, 120])
    labels = page.evaluate(f"() => ({PLACES})().map(each => each[3])")
    assert labels == [labels[0]] * 3
    assert len(labels[0]) == 30


def test_arrows_pan_all_maps_and_stop_at_the_beginning(page: Page):
    page.get_by_role("button", name="Later queries").click()
    address_has(page, "135-165", "90-120")
    # Two at once: each goes on from what the one before asked for. There are no keys before the first.
    for _ in range(2):
        page.get_by_role("button", name="Earlier keys").click()
    address_has(page, "135-165", "60-90")
    for _ in range(5):
        page.get_by_role("button", name="Earlier keys").click()
    address_has(page, "135-165", "0-30")
    together(page, [135, 165], [0, 30])


def test_a_double_click_on_the_difference_shows_all_of_all_maps(page: Page):
    drag = page.locator("[id*=compare-difference] .nsewdrag").first
    drag.scroll_into_view_if_needed()
    drag.dblclick()
    address_has(page, "", "")
    size = page.evaluate(f"() => ({PLACES})()[0][0].shape[0]")
    together(page, [0, size], [0, size])


def test_a_text_that_another_browser_gave_is_in_the_list(page: Page, served: Served):
    served.workspace.texts.add("A text that came while the page was open, and its words.")
    page.locator("input[aria-label='The other text']").click()
    page.get_by_role("option", name="A text that came while the page was open").wait_for()
    page.keyboard.press("Escape")
