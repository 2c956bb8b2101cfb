"""The browser that the tests look with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def installed_browser() -> str:
    """The browser as the system has it; nothing is downloaded. Without one the test is skipped."""
    binary = next((found for found in map(shutil.which, BROWSERS) if found), None)
    if binary is None:
        pytest.skip(f"needs a browser: one of {', '.join(BROWSERS)}")
    return binary


def settled(page: Page) -> None:
    """Wait until a page of the dashboard is there, none of its panels is busy, and each of its graphs is drawn."""
    page.wait_for_selector("h1")
    # Panels are mounted a moment after the title.
    page.wait_for_function(
        "() => document.querySelector('.panel-body') && !document.querySelector('.panel-body[aria-busy=true]') && "
        "![...document.querySelectorAll('.dash-graph')].some(each => !each.querySelector('.main-svg'))"
    )


@contextmanager
def telling(page: Page) -> Iterator[None]:
    """What fails inside says what the page showed: a browser that was waited for in vain tells nothing by itself."""
    try:
        yield
    except Exception as error:
        busy = page.evaluate(
            "() => [...document.querySelectorAll('.panel-body')].map(each => `${each.id} busy=${each.getAttribute('aria-busy')}`)"
        )
        view = page.evaluate("() => JSON.stringify(window.interp ? window.interp.state : null)")
        error.add_note("\n".join([page.url, f"view: {view}", *busy, page.locator("body").inner_text()[:3000]]))
        raise
