"""Pictures of the dashboard's pages, light and dark, as docs/images/app/{page}-{scheme}.png.

    python docs/app_screenshots.py
    python docs/app_screenshots.py head retrieval --out out/pictures

Starts the dashboard on the demo model, opens each page in the Chromium of this machine, waits until nothing is busy, and takes
what a screen of 1280 x 800 shows. Long work that a page begins by a button is begun. Pictures have a palette where Pillow is
installed, which makes them about a third as large.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import threading
from pathlib import Path
from typing import Literal

from figures import installed_browser
from playwright.sync_api import Browser, Page, sync_playwright
from werkzeug.serving import make_server

import interp
from interp_app.pages import PAGES
from interp_app.serve import Quiet, warm
from interp_app.server import create_app
from interp_app.settings import AppSettings
from interp_app.workspace import Workspace

HERE = Path(__file__).resolve().parent / "images" / "app"
Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
WIDTH, HEIGHT = 1280, 800
LONGEST = 180_000
"""Milliseconds that a page may take."""
VIEWS = {
    "overview": "/?detector=induction",
    "head": "/head?head=L2H4&text=twice",
    "text": "/text",
    "flow": "/flow",
    "retrieval": "/retrieval",
    "compare": "/compare",
    "scans": "/scans?scan=demo",
}
BUTTONS = {"retrieval": "retrieval-run"}
"""The panel whose button is pressed, where a page begins with one."""
SETTLED = (
    "() => document.querySelector('.panel-body') && !document.querySelector('.panel-body[aria-busy=true]') && "
    "![...document.querySelectorAll('.dash-graph')].some(each => !each.querySelector('.main-svg'))"
)


def settle(page: Page) -> None:
    """Wait until the page stands still."""
    page.wait_for_selector("h1")
    page.wait_for_function(SETTLED)
    page.wait_for_timeout(600)
    page.wait_for_function(SETTLED)


def picture(browser: Browser, address: str, name: str, scheme: Scheme) -> bytes:
    """One page as PNG."""
    context = browser.new_context(
        viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.set_default_timeout(LONGEST)
    page.goto(address + VIEWS[name])
    settle(page)
    if name in BUTTONS:
        page.locator(f'[id*="{BUTTONS[name]}"][id*="begin"]').click()
        page.wait_for_timeout(600)
        settle(page)
    shot = page.screenshot()
    context.close()
    return with_palette(shot)


def with_palette(png: bytes) -> bytes:
    """The same with 256 colours, where Pillow is installed."""
    try:
        from PIL import Image  # pyright: ignore[reportMissingImports]
    except ImportError:
        return png
    made = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(made, "PNG", optimize=True)
    return min(png, made.getvalue(), key=len)


def main() -> None:
    known = [page.name for page in PAGES]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("pages", nargs="*", metavar="PAGE", help=f"of {', '.join(known)}; without, all")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the pictures")
    given = parser.parse_args()
    wrong = [name for name in given.pages if name not in known]
    if wrong:
        parser.error(f"there is no page {wrong[0]!r}; there are {', '.join(known)}")
    binary = installed_browser()
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scans:
        interp.scan(interp.load("demo"), progress=False).save(Path(scans) / "demo")
        settings = AppSettings(scans=Path(scans))
        workspace = Workspace(settings)
        warm(workspace)
        app = create_app(settings, workspace=workspace).server
        server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
            for name in given.pages or known:
                for scheme in SCHEMES:
                    file = given.out / f"{name}-{scheme}.png"
                    file.write_bytes(picture(browser, f"http://127.0.0.1:{server.server_port}", name, scheme))
                    print(f"{file.name}: {file.stat().st_size / 1000:,.0f} kB")
            browser.close()
        server.shutdown()
        server.server_close()
        workspace.close()


if __name__ == "__main__":
    main()
