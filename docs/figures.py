"""Draw the pictures of the method pages again: each page's own Python is run, and the ``figure`` that it leaves is drawn.

    python docs/figures.py                      # all pages of docs/methods
    python docs/figures.py docs/methods/rollout.md

The picture of docs/methods/rollout.md is docs/images/methods/rollout.png. Needs chromium (or Chrome) on the PATH.
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
    browser = next((found for found in map(shutil.which, BROWSERS) if found), None)
    if browser is None:
        sys.exit(f"a browser is needed to draw: one of {', '.join(BROWSERS)} on the PATH")
    for page in pages:
        figure = figure_of(page)
        if figure is not None:
            target = DOCS / "images" / "methods" / f"{page.stem}.png"
            draw(figure, target, browser)
            print(target.relative_to(DOCS.parent))


def figure_of(page: Path) -> go.Figure | None:
    """What the Python of a page calls ``figure``."""
    names: dict[str, object] = {"__name__": page.stem}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(block, names)  # noqa: S102 - the project's own page
    figure = names.get("figure")
    return figure if isinstance(figure, go.Figure) else None


def draw(figure: go.Figure, target: Path, browser: str) -> None:
    """The figure as a PNG of its own size."""
    width, height = figure.layout.width or 900, figure.layout.height or 500
    figure = go.Figure(figure).update_layout(width=width, height=height, paper_bgcolor="#ffffff")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "figure.html"
        body = figure.to_html(full_html=False, include_plotlyjs=True, config={"displayModeBar": False})
        page.write_text(f"<!doctype html><meta charset=utf-8><body style='margin:0'>{body}", encoding="utf-8")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=10000"]
        command = [browser, *options, f"--user-data-dir={folder}/profile", f"--window-size={width},{height}"]
        subprocess.run(
            [*command, f"--screenshot={target}", page.as_uri()], check=True, capture_output=True, timeout=180
        )


if __name__ == "__main__":
    main()
