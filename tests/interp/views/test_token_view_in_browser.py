"""The token view in a real browser: hover, lock, keys, heads, special tokens, hostile tokens, several on a page."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from interp.inputs.tokens import Token, TokenRow
from interp.views import TokenView, token_view
from interp.views.token_html import script, style
from interp.views.token_payload import as_json
from interp_kernels import AttentionMap, Mask, attend
from tests.interp.views.hostile import HOSTILE

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    Open = Callable[..., Page]

T, START, SIZE = 40, 10, 20
WORDS = ["<s>", *(f" word{n}" for n in range(1, T - 1)), "<e>"]
WORDS[15] = "<sep>"
SPECIAL = (0, 15, T - 1)


def row() -> TokenRow:
    return TokenRow(tuple(Token(n, n, text, None, None, n in SPECIAL) for n, text in enumerate(WORDS)))


def lazy_map(mask: Mask | None = None, heads: int = 2, tokens: int = T) -> AttentionMap:
    generator = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(1, heads, tokens, 4, generator=generator) for _ in range(3))
    return attend(2 * q, k, v, mask=mask or Mask.causal()).map


@pytest.fixture(scope="module")
def view() -> TokenView:
    return token_view(lazy_map(), row(), start=START, size=SIZE, top=4)


@pytest.fixture(scope="module")
def both_ways() -> TokenView:
    return token_view(lazy_map(Mask.full()), row(), start=START, size=SIZE, top=4)


def token(page: Page | Locator, position: int) -> Locator:
    return page.locator(".itv-token").nth(position - START)


def strengths(page: Page, which: str = "r") -> np.ndarray:
    """How strongly each token is coloured: as one looked at (r), or as one that looks (c)."""
    values = page.locator(".itv-token").evaluate_all(f"all => all.map(e => e.style.getPropertyValue('--itv-{which}'))")
    return np.array([float(value) for value in values])


NEAR = 1 / 510 + 1e-3
"""Half a step of the tile's root, and the three digits of the style."""


def listed(page: Page, which: str = "") -> list[tuple[str, ...]]:
    """Weight, token and place of each entry of a list."""
    parts = (".itv-weight", ".itv-word", ".itv-place")
    columns = [page.locator(f".itv-side .itv-list{which} li {part}").all_inner_texts() for part in parts]
    return list(zip(*columns, strict=True))


QUERIES, KEYS = ".itv-from", ":not(.itv-from)"


def mounted(view: TokenView, options: str = "{}") -> str:
    """The widget as an app mounts it: payload, script and style from Python; what happens to it is kept in ``events``."""
    return f"""<!doctype html><html lang="en"><head><title>app</title><style>{style()}</style></head>
<body><main><h1>app</h1><div id="here"></div></main>
<script>{script()}</script>
<script>
  window.events = [];
  const here = document.getElementById("here");
  for (const name of ["interp:lock", "interp:head", "interp:special"])
    here.addEventListener(name, (e) => events.push([name, e.detail]));
  const payload = {as_json(view.payload)};
  window.handle = interpTokenView.mount(here, payload, {options});
</script></body></html>"""


def test_hovering_colours_the_keys_by_the_root_of_their_weight(open_html: Open, view: TokenView) -> None:
    page = open_html(view.html())
    links = view.links["head 0"]
    token(page, 20).hover()
    np.testing.assert_allclose(strengths(page), links.weights[20 - START] ** 0.5, rtol=0, atol=NEAR)
    assert (strengths(page, "c") == 0).all()
    unseen = token(page, 21).evaluate("e => e.classList.contains('itv-unseen')")
    assert unseen
    assert not token(page, 19).evaluate("e => e.classList.contains('itv-unseen')")
    strongest = START + int(links.weights[20 - START].argmax())
    colour = token(page, strongest).locator(".itv-word").evaluate("e => getComputedStyle(e).backgroundColor")
    red, green, blue = (float(x) for x in colour.removeprefix("color(srgb ").removesuffix(")").split())
    assert blue > green > red


def test_the_list_gives_exact_weights_and_marks_keys_outside(open_html: Open, view: TokenView) -> None:
    page = open_html(view.html())
    links = view.links["head 0"]
    token(page, 12).hover()
    expected = [
        (f"{weight:.3f}", WORDS[key].strip(), f"{key}{'' if key >= START else ' outside'}")
        for key, weight in zip(links.keys[2], links.key_weights[2], strict=True)
    ]
    assert listed(page, KEYS) == expected
    assert any("outside" in place for _, _, place in expected)
    side = page.locator(".itv-side").inner_text()
    assert f"before this window {links.before[2]:.3f}" in side
    assert f"attention to the first token {links.first[2]:.3f}" in side
    # Nothing to jump to in a notebook: what lies outside is no button.
    assert page.locator(".itv-outside button").count() == 0


def test_who_looks_at_a_token_is_a_column_of_the_window(open_html: Open, both_ways: TokenView) -> None:
    page = open_html(both_ways.html())
    links = both_ways.links["head 0"]
    page.get_by_label("who looks at it").check()
    token(page, 14).hover()
    column = links.weights[:, 4]
    np.testing.assert_allclose(strengths(page, "c"), column**0.5, rtol=0, atol=NEAR)
    np.testing.assert_allclose(strengths(page), links.weights[4] ** 0.5, rtol=0, atol=NEAR)
    order = np.argsort(-column, kind="stable")[:4]
    assert listed(page, QUERIES) == [(f"{column[i]:.3f}", WORDS[START + i].strip(), str(START + i)) for i in order]
    side = page.locator(".itv-side").inner_text()
    assert "of the tokens of this window" in side
    assert f"all of them together {links.received[4]:.3f}" in side
    page.get_by_label("who looks at it").uncheck()
    assert (strengths(page, "c") == 0).all()
    assert not page.locator(".itv-from").is_visible()


def test_a_click_locks_and_a_second_one_or_escape_releases(open_html: Open, view: TokenView) -> None:
    page = open_html(mounted(view))
    token(page, 20).click()
    token(page, 13).hover()
    assert page.locator(".itv-subtitle").first.inner_text().startswith("20: word20 looks at (locked")
    assert token(page, 20).get_attribute("aria-selected") == "true"
    token(page, 20).click()
    token(page, 13).hover()
    assert page.locator(".itv-subtitle").first.inner_text() == "13: word13 looks at"
    token(page, 20).click()
    page.keyboard.press("Escape")
    assert page.locator(".itv-locked").count() == 0
    token(page, 20).click()
    token(page, 22).click()
    assert page.locator(".itv-locked").count() == 1
    positions = [detail["position"] for _, detail in page.evaluate("events")]
    assert positions == [20, None, 20, None, 20, 22]


def test_the_text_is_one_stop_of_tab_and_arrows_move_in_it(open_html: Open, view: TokenView) -> None:
    page = open_html(mounted(view))
    page.locator("body").click(position={"x": 2, "y": 2})
    for _ in range(5):  # head, who looks, hide, colours, text
        page.keyboard.press("Tab")
    focused = "document.activeElement.getAttribute('aria-label')"
    assert page.evaluate(focused) == "10: word10"
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "13: word13"
    assert page.locator(".itv-subtitle").first.inner_text() == "13: word13 looks at"
    best = view.links["head 0"].keys[3, 0]
    assert (
        page.locator("[role=status]")
        .inner_text()
        .startswith(f"13: word13 looks most at {WORDS[best].strip()}, token {best}")
    )
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(focused) == "12: word12"
    page.keyboard.press("End")
    assert page.evaluate(focused) == "29: word29"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "29: word29"
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    assert page.evaluate("events") == [["interp:lock", {"position": 10}]]
    page.keyboard.press(" ")
    assert page.evaluate("events").pop() == ["interp:lock", {"position": None}]
    assert page.locator(".itv-token[tabindex='0']").count() == 1


def test_another_head_is_shown_for_the_same_token(open_html: Open, view: TokenView) -> None:
    page = open_html(mounted(view, "{head: 'head 1'}"))
    select = page.get_by_label("head")
    assert select.input_value() == "head 1"
    token(page, 25).click()
    for head in ("head 1", "head 0"):
        select.select_option(head)
        weights = view.links[head].key_weights[15]
        assert [weight for weight, _, _ in listed(page, KEYS)] == [f"{w:.3f}" for w in weights]
    assert page.evaluate("events")[1:] == [["interp:head", {"head": "head 1"}], ["interp:head", {"head": "head 0"}]]


def test_special_tokens_are_hidden_from_text_lists_and_arrows(open_html: Open, both_ways: TokenView) -> None:
    page = open_html(mounted(both_ways))
    links = both_ways.links["head 0"]
    query = next(i for i in range(SIZE) if set(links.keys[i].tolist()) & set(SPECIAL) and START + i not in SPECIAL)
    token(page, START + query).click()
    hidden = [key in SPECIAL for key in links.keys[query].tolist()]
    page.get_by_label("hide special").check()
    assert not token(page, 15).is_visible()
    assert len(listed(page, KEYS)) == 4 - sum(hidden)
    mass = links.key_weights[query][hidden].sum()
    assert f"special tokens, hidden {mass:.3f}" in page.locator(".itv-side").inner_text()
    token(page, 14).click()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "16: word16"
    page.get_by_label("hide special").uncheck()
    token(page, 15).click()
    page.get_by_label("hide special").check()
    assert page.evaluate("events")[-2:] == [
        ["interp:lock", {"position": None}],
        ["interp:special", {"isHiding": True}],
    ]


def test_special_tokens_are_hidden_and_shown_from_outside(open_html: Open, both_ways: TokenView) -> None:
    page = open_html(mounted(both_ways))
    for is_hiding in (True, False):
        # The second call of a pair changes nothing, and says nothing.
        page.evaluate("is => { handle.hideSpecial(is); handle.hideSpecial(is); }", is_hiding)
        assert page.get_by_label("hide special").is_checked() == is_hiding
        assert token(page, 15).is_visible() != is_hiding
    assert page.evaluate("events") == [["interp:special", {"isHiding": value}] for value in (True, False)]


def test_colours_fitted_to_the_token_reach_the_end_of_the_scale(open_html: Open, view: TokenView) -> None:
    page = open_html(view.html())
    page.get_by_label("colours").select_option("fitted")
    token(page, 24).hover()
    links = view.links["head 0"]
    weights = links.weights[14]
    assert strengths(page).argmax() == weights.argmax()
    assert strengths(page).max() == 1
    last = float(page.locator(".itv-row .itv-ticks span").last.inner_text())
    assert last == pytest.approx(weights.max(), rel=0.06)
    page.get_by_label("colours").select_option("fixed")
    assert page.locator(".itv-row .itv-ticks span").all_inner_texts() == ["0", "0.04", "0.25", "1"]


def test_an_app_jumps_locks_updates_and_destroys(open_html: Open, view: TokenView) -> None:
    page = open_html(mounted(view, "{onJump: (position) => events.push(['jump', position]), position: 12}"))
    assert page.locator(".itv-locked").inner_text().strip() == "word12"
    outside = page.locator(".itv-outside button").first
    place = outside.inner_text().removesuffix(" outside")
    outside.click()
    assert page.evaluate("events").pop() == ["jump", int(place)]
    inside = page.locator(".itv-side li:not(.itv-outside) button").first
    place = inside.inner_text()
    inside.click()
    assert page.evaluate("events").pop() in (
        ["interp:lock", {"position": int(place)}],
        ["interp:lock", {"position": None}],
    )
    page.evaluate("handle.lock(11); handle.lock(3000); handle.lock(9)")
    assert page.locator(".itv-locked").inner_text().strip() == "word11"
    later = token_view(lazy_map(), row(), start=11, size=8, top=4)
    page.evaluate(f"handle.update({as_json(later.payload)})")
    assert page.locator(".itv-token").count() == 8
    assert page.locator(".itv-locked").inner_text().strip() == "word11"
    page.evaluate(f"handle.update({as_json(token_view(lazy_map(), row(), start=20, size=8).payload)})")
    assert page.evaluate("events").pop() == ["interp:lock", {"position": None}]
    page.evaluate("handle.unlock(); handle.destroy()")
    assert page.locator("#here").inner_html() == ""


def test_several_on_one_page_do_not_meet(open_html: Open, view: TokenView, both_ways: TokenView) -> None:
    page = open_html(f"<main>{view._repr_html_()}{both_ways._repr_html_()}{view._repr_html_()}</main>")
    widgets = page.locator(".interp-token-view").all()
    assert len(widgets) == 3
    token(widgets[1], 20).click()
    token(widgets[2], 21).click()
    locked = [widget.locator(".itv-locked").all_inner_texts() for widget in widgets]
    assert [[text.strip() for text in texts] for texts in locked] == [[], ["word20"], ["word21"]]
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids)) > 0


def test_a_notebook_that_puts_the_output_in_by_html_gets_a_widget(open_html: Open, view: TokenView) -> None:
    """As JupyterLab does it: the HTML goes in as it is, and each script is made anew so that it runs."""
    page = open_html("<main><div id=output></div></main>")
    page.evaluate(
        """html => {
            const output = document.getElementById("output");
            output.innerHTML = html;
            for (const old of output.querySelectorAll("script")) {
                const script = document.createElement("script");
                script.textContent = old.textContent;
                old.replaceWith(script);
            }
        }""",
        view._repr_html_(),
    )
    token(page, 20).hover()
    assert page.locator(".itv-subtitle").first.inner_text() == "20: word20 looks at"


def test_without_scripts_the_text_is_read(open_html: Open, view: TokenView) -> None:
    page = open_html(view.html(), java_script_enabled=False)
    text = page.locator("main").inner_text()
    assert "word12 word13 word14" in text
    assert page.locator("tbody tr").count() == 12


def test_hostile_tokens_run_nothing_and_are_seen(open_html: Open) -> None:
    view = token_view(lazy_map(tokens=len(HOSTILE)), HOSTILE, title=HOSTILE[1])
    page = open_html(view.html())
    assert page.title() == HOSTILE[1]
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 1
    tokens = page.locator(".itv-token")
    assert tokens.count() == len(HOSTILE)
    texts = [text.strip() for text in tokens.evaluate_all("all => all.map(e => e.textContent)")]
    assert texts[:2] == [text.strip() for text in HOSTILE[:2]]
    assert texts[2] == "⟨U+202E⟩evil⟨U+2066⟩"
    assert texts[6].endswith("… (10,000 characters)")
    assert texts[8] == "⟨U+D83D⟩"
    empty = tokens.nth(HOSTILE.index("")).locator(".itv-empty").bounding_box()
    assert empty is not None
    assert 2 <= empty["width"] <= 5
    tokens.nth(HOSTILE.index("") + 1).hover()
    assert page.locator(".itv-side .itv-empty").is_visible()
    assert set(tokens.evaluate_all("all => all.map(e => getComputedStyle(e).unicodeBidi)")) == {"isolate"}
    for at in range(len(HOSTILE)):
        tokens.nth(at).hover()
    page.get_by_label("who looks at it").check()
    assert page.title() == HOSTILE[1]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_html: Open, both_ways: TokenView, view: TokenView, scheme: str) -> None:
    sync = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = open_html(both_ways.html(), color_scheme=scheme)
    check_axe(sync, page)
    page.get_by_label("who looks at it").check()
    page.get_by_label("colours").select_option("fitted")
    token(page, 20).click()
    check_axe(sync, page)
    page = open_html(mounted(view, "{onJump: () => {}, position: 20}"), color_scheme=scheme)
    check_axe(sync, page)


def check_axe(sync: Any, page: Page) -> None:
    found = sync.Axe().run(page).response["violations"]
    told = [(each["id"], each["impact"], [node["html"][:200] for node in each["nodes"][:3]]) for each in found]
    assert told == []


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [("data-mantine-color-scheme=dark", "dark"), ("data-jp-theme-light=true", "light"), ("class=vscode-dark", "dark")],
)
def test_the_colours_follow_the_page_before_the_system(
    open_html: Open, view: TokenView, attributes: str, expected: str
) -> None:
    other = "light" if expected == "dark" else "dark"
    page = open_html(f"<div {attributes}>{view._repr_html_()}</div>", color_scheme=other)
    assert page.locator(".interp-token-view").evaluate("e => getComputedStyle(e).colorScheme") == expected
    ground = page.locator(".interp-token-view").evaluate("e => getComputedStyle(e).backgroundColor")
    assert ground == {"dark": "rgb(26, 29, 35)", "light": "rgb(255, 255, 255)"}[expected]


def test_hovering_over_256_tokens_is_instant(open_html: Open) -> None:
    view = token_view(lazy_map(Mask.full(), 1, 256), [f" t{n}" for n in range(256)])
    page = open_html(view.html())
    page.get_by_label("who looks at it").check()
    milliseconds = page.evaluate(
        """() => {
            const tokens = [...document.querySelectorAll(".itv-token")];
            const times = tokens.filter((_, at) => at % 4 === 0).map((token) => {
                const start = performance.now();
                token.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
                token.parentElement.getBoundingClientRect();
                return performance.now() - start;
            });
            return times.sort((a, b) => a - b)[32];
        }"""
    )
    assert milliseconds < 100
