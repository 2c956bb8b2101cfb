"""Draw the picture of docs/dossiers.md again: a head's section of the report, in a real browser.

    python docs/dossiers_picture.py

Needs playwright and chromium (or Chrome) on the PATH.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from figures import installed_browser, names_of
from playwright.sync_api import sync_playwright

from interp.dossiers import HeadDossiers

DOCS = Path(__file__).resolve().parent
HEAD = "L2H5"
WIDTH, HEIGHT = 1100, 804


def main() -> None:
    target = DOCS / "images" / "dossiers.png"
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        report = Path(folder) / "report.html"
        report.write_text(dossiers_of(DOCS / "dossiers.md").report(HEAD), encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=installed_browser(), args=["--no-sandbox"])
        # So high that the page need not be scrolled: places on it are those on the screen.
        page = browser.new_page(viewport={"width": WIDTH, "height": 4 * HEIGHT}, color_scheme="light")
        page.goto(report.as_uri())
        section = page.locator(f"#{HEAD}")
        section.locator(".main-svg").first.wait_for()
        section.locator(".ipd-token").first.wait_for()
        box = section.bounding_box()
        assert box is not None
        clip = {"x": box["x"], "y": box["y"], "width": box["width"], "height": min(box["height"], HEIGHT)}
        page.screenshot(path=target, clip=clip)  # pyright: ignore[reportArgumentType]
        browser.close()
    print(target.relative_to(DOCS.parent))


def dossiers_of(page: Path) -> HeadDossiers:
    """What the first Python of a page calls ``dossiers``."""
    found = names_of(page, 1)["dossiers"]
    assert isinstance(found, HeadDossiers)
    return found


if __name__ == "__main__":
    main()
