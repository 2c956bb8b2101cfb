"""The Retrieval page in a real Chromium: a trial replayed step by step, without the server, and kept in the address."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from interp.heads.replay import Replay
from interp_app.pages.retrieval_run import replayed
from interp_app.pages.retrieval_table import shown
from interp_app.view import View
from tests.app.conftest import Served
from tests.app.ready import ready
from tests.browser import settled, telling

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

VIEW = View(trial=3)


@pytest.fixture(scope="module")
def trial(served: Served) -> Replay:
    """The trial that is replayed; its run is there before the page is opened."""
    return ready(lambda: replayed(served.workspace, VIEW))


@pytest.fixture(scope="module")
def page(served: Served, trial: Replay, chromium: Browser) -> Iterator[Page]:
    """The page at the third step. What the console complains of fails the module's last test."""
    said: list[str] = []
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"{served.address}/retrieval{VIEW.but(step=2).to_search()}")
    with telling(page):
        page.wait_for_selector("#replay-place .replay-now")
        settled(page)
    yield page
    context.close()
    assert said == []


def at_step(page: Page, trial: Replay, step: int) -> None:
    """The page shows this step: its token, recall, and where the heads look."""
    assert page.locator(".replay-count").inner_text() == f"step {step + 1} of {len(trial.new)}"
    assert page.locator(".replay-now").inner_text() == shown(trial.new[step])
    assert f"Recall by now {trial.recall_by_step[step]:.0f} %" in page.locator("#replay-place").inner_text()
    rows = page.locator("#replay-place tbody tr")
    for number, name in enumerate(trial.heads):
        cells = rows.nth(number).locator("th, td").all_inner_texts()
        position = int(trial.position[step, number, 0])
        assert cells[:1] + cells[2:] == [
            name,
            f"{position:,}",
            f"{trial.weight[step, number, 0]:.3f}",
            f"{trial.on_answer[step, number]:.3f}",
            f"{trial.copied[: step + 1, number].sum()} of {step + 1}",
        ]
        assert cells[1].removeprefix("● ").removeprefix("○ ") == shown(trial.token(position))


def test_a_link_opens_its_step_and_buttons_and_keys_lead_to_others(page: Page, trial: Replay):
    at_step(page, trial, 2)
    page.get_by_role("button", name="The next step").click()
    at_step(page, trial, 3)
    slider = page.get_by_role("slider", name="Step of the replay")
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    at_step(page, trial, 0)
    assert page.get_by_role("button", name="The step before").is_disabled()
    page.keyboard.press("End")
    at_step(page, trial, len(trial.new) - 1)
    assert page.get_by_role("button", name="The next step").is_disabled()


def test_the_address_follows_and_holds_no_step_at_the_first(page: Page, trial: Replay):
    last = len(trial.new) - 1
    page.wait_for_function("step => new URLSearchParams(location.search).get('step') === step", arg=str(last))
    page.get_by_role("slider", name="Step of the replay").focus()
    page.keyboard.press("Home")
    page.wait_for_function("() => !new URLSearchParams(location.search).has('step')")
    at_step(page, trial, 0)
    # Another trial of a link that is older: what it has not is not in the address either.
    page.evaluate("() => window.interp.change({ step: 4 })")
    page.wait_for_function("() => document.querySelector('.replay-count').textContent.startsWith('step 5 of')")
    at_step(page, trial, 4)


def test_heads_stand_after_the_tokens_that_they_look_at(page: Page, trial: Replay):
    first = trial.statement[0] - 24
    places = page.eval_on_selector_all(
        ".replay-token", "all => all.map(each => [...each.nextElementSibling.children].map(label => label.textContent))"
    )
    for number, name in enumerate(trial.heads):
        position = int(trial.position[4, number, 0])
        where = [at + first for at, labels in enumerate(places) if any(label.endswith(name) for label in labels)]
        assert where == ([position] if first <= position < first + len(places) else [])
