"""The report of dossiers in a real browser, opened from disk without a network: what hovering shows, and hostile tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import interp
from interp.dossiers import HeadDossiers
from interp.dossiers.payload import passages_payload
from interp.views.token_text import shown
from tests.interp.tiny import ARCHITECTURES, token_ids
from tests.interp.views.hostile import HOSTILE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Of those that a tokenizer can give: halves of surrogate pairs are in no column of text.
TOKENS = [token for token in HOSTILE if token.isascii() or token.encode(errors="ignore").decode() == token]
TITLE = "</title><script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def dossiers() -> HeadDossiers:
    """Of a model whose tokens try to be something else than text."""
    model = interp.load(ARCHITECTURES["llama"].build())
    made = interp.head_dossiers(model, [token_ids((40,), seed=n).tolist() for n in range(8)], samples=1, progress=False)

    def hostile(number: int) -> str:
        return TOKENS[int(number) % len(TOKENS)]

    return replace(
        made,
        passages=made.passages.assign(tokens=[[hostile(i) for i in ids] for ids in made.passages["ids"]]),
        tokens=made.tokens.assign(token=made.tokens["id"].map(hostile)),
        settings={**made.settings, "model": {**made.settings["model"], "model": TITLE}},
    )


@pytest.fixture(scope="module")
def page(dossiers: HeadDossiers, chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    file: Path = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(dossiers.report(["L0H1", "L1H2"]), encoding="utf-8")
    page = chromium.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request",
        lambda request: problems.append(request.url) if not request.url.startswith(("file:", "data:")) else None,
    )
    page.goto(file.as_uri())
    yield page
    assert problems == []
    page.close()


def test_hostile_tokens_are_text_alone(page: Page, dossiers: HeadDossiers) -> None:
    assert page.title() == f"Head dossiers of {TITLE}"
    assert page.locator("img").count() == 0
    for head in ("L0H1", "L1H2"):
        chosen = [p for p in dossiers.head(head).passages if p.rank < (4 if p.group == "strongest" else 1)]
        drawn = page.locator(f"#{head} .ipd-passage")
        assert drawn.count() == len(chosen)
        texts = drawn.nth(0).locator(".ipd-token").all_text_contents()
        assert texts == [shown(token).replace("\n", "") for token in chosen[0].tokens]


def test_the_figures_are_drawn(page: Page) -> None:
    for place in ("all-heads", "figure-L0H1", "figure-L1H2"):
        page.locator(f"#{place} svg.main-svg").first.wait_for()


def test_the_strongest_link_is_shown_first(page: Page, dossiers: HeadDossiers) -> None:
    passage = dossiers.head("L1H2").passages[0]
    assert passage.strongest is not None
    query, key, weight = passage.strongest
    drawn = page.locator("#L1H2 .ipd-passage").first
    assert "ipd-active" in (drawn.locator(".ipd-token").nth(query).get_attribute("class") or "")
    assert "ipd-key" in (drawn.locator(".ipd-token").nth(key).get_attribute("class") or "")
    assert f"{weight:.3f}" in drawn.locator(".ipd-line").inner_text()


def test_hovering_names_the_keys_and_clicking_holds_them(page: Page, dossiers: HeadDossiers) -> None:
    passage = dossiers.head("L0H1").passages[0]
    query = int(passage.edges["query"].iloc[-1])
    keys = passage.edges[passage.edges["query"] == query]
    drawn = page.locator("#L0H1 .ipd-passage").first
    tokens, line = drawn.locator(".ipd-token"), drawn.locator(".ipd-line")
    tokens.nth(query).dispatch_event("pointerover")
    said = line.inner_text()
    assert said.startswith(f"{query} “")
    for key, weight in zip(keys["key"], keys["weight"], strict=True):
        assert f"{key} “" in said
        assert f"{weight:.3f}" in said
        assert "ipd-key" in (tokens.nth(int(key)).get_attribute("class") or "")
    tokens.nth(query).dispatch_event("click")
    tokens.nth(3).dispatch_event("pointerover")
    assert line.inner_text() == said
    tokens.nth(query).press("Escape")
    tokens.nth(3).dispatch_event("pointerover")
    assert line.inner_text().startswith("3 “")


def test_the_arrow_keys_move_from_token_to_token(page: Page) -> None:
    drawn = page.locator("#L0H1 .ipd-passage").nth(1)
    drawn.locator(".ipd-token").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert drawn.locator(".ipd-line").inner_text().startswith("2 “")
    page.keyboard.press("Enter")
    assert drawn.locator(".ipd-token").nth(2).get_attribute("aria-pressed") == "true"


def test_a_window_of_a_long_passage_holds_its_strongest_link(dossiers: HeadDossiers) -> None:
    passage = dossiers.head("L1H2").passages[0]
    assert passage.strongest is not None
    content = passages_payload([passage], "strongest", window=10)["passages"][0]
    assert content["start"] <= passage.strongest[0] < content["start"] + 10
    assert len(content["tokens"]) == 10
    edges = content["edges"]
    outside = {key for key in edges[1::3] if not content["start"] <= key < content["start"] + 10}
    assert {int(key) for key in content["outside"]} == outside
