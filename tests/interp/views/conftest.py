"""A real browser for the widgets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture
def open_html(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """Opens HTML as a page without a network. What the console or a script complains of fails the test."""
    said: list[str] = []
    contexts = []

    def open_page(html: str, **options: Any) -> Page:
        context = chromium.new_context(viewport={"width": 1180, "height": 900}, offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.set_content(html)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
