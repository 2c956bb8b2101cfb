"""Draw the picture of docs/token_view.md again: the page's own view, a token locked in it, in a real browser.

    python docs/token_view_picture.py

Needs playwright and chromium (or Chrome) on the PATH.
"""

from __future__ import annotations

from pathlib import Path

from figures import installed_browser, names_of
from playwright.sync_api import sync_playwright

from interp.views import TokenView

DOCS = Path(__file__).resolve().parent
LOCKED = 60


def main() -> None:
    target = DOCS / "images" / "token_view.png"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed_browser(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 900}, color_scheme="light")
        page.set_content(view_of(DOCS / "token_view.md").html())
        page.get_by_label("who looks at it").check()
        page.locator(".itv-token").nth(LOCKED).click()
        page.locator(".interp-token-view").screenshot(path=target)
        browser.close()
    print(target.relative_to(DOCS.parent))


def view_of(page: Path) -> TokenView:
    """What the first Python of a page calls ``view``."""
    found = names_of(page, 1)["view"]
    assert isinstance(found, TokenView)
    return found


if __name__ == "__main__":
    main()
