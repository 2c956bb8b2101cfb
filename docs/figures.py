"""Draw the pictures of pages again: each page's own Python is run, and the ``figure`` that it leaves is drawn.

    python docs/figures.py                      # all pages of docs/methods
    python docs/figures.py docs/methods/rollout.md docs/maps.md

The picture of docs/methods/rollout.md is docs/images/methods/rollout.png. Where a page leaves a list of ``figures``, these stand
side by side. Needs chromium (or Chrome) on the PATH.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import plotly.graph_objects as go

DOCS = Path(__file__).resolve().parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def main() -> None:
    pages = [Path(given) for given in sys.argv[1:]] or sorted((DOCS / "methods").glob("*.md"))
    browser = installed_browser()
    for page in pages:
        figures = figures_of(page)
        if figures:
            target = (DOCS / "images" / page.resolve().relative_to(DOCS)).with_suffix(".png")
            draw(figures, target, browser)
            print(target.relative_to(DOCS.parent))


def installed_browser() -> str:
    """The browser as the system has it."""
    binary = next((found for found in map(shutil.which, BROWSERS) if found), None)
    if binary is None:
        sys.exit(f"a browser is needed to draw: one of {', '.join(BROWSERS)} on the PATH")
    return binary


def figures_of(page: Path) -> list[go.Figure]:
    """What the Python of a page calls ``figures`` or ``figure``; none where it leaves no such thing."""
    names = names_of(page)
    found = names.get("figures", [names.get("figure")])
    assert isinstance(found, list)
    return [figure for figure in found if isinstance(figure, go.Figure)]


def names_of(page: Path, blocks: int | None = None) -> dict[str, object]:
    """What the Python of a page leaves. blocks: of so many, the first ones; None: of all."""
    names: dict[str, object] = {"__name__": page.stem}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)[:blocks]:
        exec(block, names)  # noqa: S102 - the project's own page
    return names


def draw(figures: list[go.Figure], target: Path, browser: str) -> None:
    """The figures beside each other as a PNG, each of its own size."""
    sizes = [(figure.layout.width or 900, figure.layout.height or 500) for figure in figures]
    width, height = sum(w for w, _ in sizes), max(h for _, h in sizes)
    shown = [
        go.Figure(figure)
        .update_layout(width=w, height=h, paper_bgcolor="#ffffff")
        .to_html(full_html=False, include_plotlyjs=n == 0, config={"displayModeBar": False})
        for n, (figure, (w, h)) in enumerate(zip(figures, sizes, strict=True))
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "figure.html"
        body = "<!doctype html><meta charset=utf-8><body style='margin:0;display:flex'>" + "".join(shown)
        page.write_text(body, encoding="utf-8")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=10000"]
        command = [browser, *options, f"--user-data-dir={folder}/profile", f"--window-size={width},{height}"]
        subprocess.run(
            [*command, f"--screenshot={target}", page.as_uri()], check=True, capture_output=True, timeout=180
        )


if __name__ == "__main__":
    main()
