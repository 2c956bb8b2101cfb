"""The dashboard in a real Chromium: seconds to the first view, bytes of the Head page, seconds of a zoom, memory of the server.

    python benchmarks/app.py --out benchmarks/results
    python benchmarks/app.py --repeats 1

What is measured, on the demo model, each from outside as a person meets it:

    first view     from asking for the address of a server that is up until the heads' grid stands drawn; the cache is empty
    seen again     the same with the cache of the first time
    head payload   bytes of all answers of the callbacks until the Head page stands drawn, as they cross the network (compressed)
                   and unpacked; scripts and styles, which the browser keeps, are not counted. The text was read before
    zoom           from a click on "Zoom in" or "Zoom out" until the map shows the new part; the median of four steps each way
    server memory  resident size of the server's process, after it started and at the end

The text is the demo's prose, repeated up to the length. The server is a process of its own, started as ``interp app`` does.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FIRST_VIEW, PAYLOAD, ZOOM = 2.0, 500_000, 0.3
"""Bounds: seconds, bytes, seconds."""
PAYLOAD_TOKENS = (1_000, 100_000)
ZOOM_TOKENS = 16_384
LONGEST = 300_000
"""Milliseconds that a page may take: a text of 100,000 tokens is read once."""
UPDATE = "_dash-update-component"
HEAD = "L2H4"

GRID_DRAWN = "() => document.querySelector('[id*=overview-grid] .heatmaplayer image, [id*=overview-grid] .hm image')"
SETTLED = (
    "() => document.querySelector('.panel-body') && !document.querySelector('.panel-body[aria-busy=true]') && "
    "![...document.querySelectorAll('.dash-graph')].some(each => !each.querySelector('.main-svg'))"
)
MAP = "document.querySelector('[id*=head-map] .js-plotly-plot')"


@dataclass(frozen=True)
class Figure:
    """One line of the table. bound: None where there is none."""

    what: str
    tokens: int | None
    value: float
    unit: str
    bound: float | None = None


@dataclass(frozen=True)
class Server:
    address: str
    process: psutil.Process

    @property
    def memory(self) -> float:
        """Megabytes, of the process and those that it started."""
        each = [self.process, *self.process.children(recursive=True)]
        return sum(process.memory_info().rss for process in each) / 1e6


@contextmanager
def started(text: Path | None = None) -> Iterator[Server]:
    """A dashboard in a process of its own, once it says its address."""
    arguments = [sys.executable, "-m", "interp_app", "--port", "0", *(["--text", str(text)] if text else [])]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        if found is None:
            raise SystemExit(f"the server did not start: {' '.join(arguments)}")
        yield Server(found[0].rstrip("/"), psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait()


def prose_of(tokens: int, folder: Path) -> Path:
    """A file with the demo's prose, repeated up to so many tokens of the demo model."""
    import interp

    prose = resources.files("interp").joinpath("demo/prose.txt").read_text(encoding="utf-8")
    tokenizer = interp.load("demo").tokenizer
    assert tokenizer is not None
    once = len(tokenizer(prose)["input_ids"])
    text = "\n\n".join([prose] * (tokens // once + 1))
    ends = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    file = folder / f"{tokens}.txt"
    file.write_text(text[: ends[tokens - 1][1]], encoding="utf-8")
    return file


def first_view(browser: Browser, server: Server) -> tuple[float, float]:
    """Seconds to the grid with an empty and with a filled cache."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    taken = []
    for _ in range(2):
        page = context.new_page()
        begun = time.perf_counter()
        page.goto(server.address, wait_until="commit")
        page.wait_for_function(GRID_DRAWN, polling="raf")
        taken.append(time.perf_counter() - begun)
        page.close()
    context.close()
    return taken[0], taken[1]


def opened(browser: Browser, server: Server) -> tuple[Page, Callable[[], tuple[int, int]]]:
    """The Head page, drawn; and what its callbacks' answers weigh so far: over the network, and unpacked."""
    from playwright.sync_api import TimeoutError as NotInTime

    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.set_default_timeout(LONGEST)
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    wanted: set[str] = set()
    sizes = {"sent": 0, "unpacked": 0}

    def asked(event: dict) -> None:
        if UPDATE in event["request"]["url"]:
            wanted.add(event["requestId"])

    def unpacked(event: dict) -> None:
        if event["requestId"] in wanted:
            sizes["unpacked"] += event["dataLength"]

    def ended(event: dict) -> None:
        if event["requestId"] in wanted:
            sizes["sent"] += event["encodedDataLength"]

    session.on("Network.requestWillBeSent", asked)
    session.on("Network.dataReceived", unpacked)
    session.on("Network.loadingFinished", ended)
    page.goto(f"{server.address}/head?head={HEAD}&beyond=1", wait_until="commit")
    try:
        page.wait_for_function(SETTLED)
    except NotInTime:
        busy = page.evaluate("[...document.querySelectorAll('.panel-body[aria-busy=true]')].map(each => each.id)")
        raise SystemExit(f"the Head page was not drawn within {LONGEST / 1000:g} s; busy: {busy}") from None
    return page, lambda: (sizes["sent"], sizes["unpacked"])


def zooms(page: Page, steps: int) -> list[float]:
    """Seconds of steps of "Zoom in", and as many of "Zoom out", each from the click until the map shows the new part."""
    taken = []
    for name in ("Zoom in on the middle", "Zoom out by two"):
        for _ in range(steps):
            taken.append(
                page.evaluate(
                    f"""async (name) => {{
                        const graph = {MAP}, before = JSON.stringify(graph.layout.meta);
                        const button = document.querySelector(`[aria-label="${{name}}"]`);
                        const begun = performance.now();
                        const shown = new Promise((done) => {{
                            const look = () => {{
                                const now = {MAP};
                                if (JSON.stringify(now?.layout?.meta) !== before)
                                    requestAnimationFrame(() => done(performance.now() - begun));
                                else requestAnimationFrame(look);
                            }};
                            look();
                        }});
                        button.click();
                        return (await shown) / 1000;
                    }}""",
                    name,
                )
            )
            page.wait_for_timeout(1500)  # a person looks; the other panels follow the view
    return taken


def measure(repeats: int, payload_tokens: tuple[int, ...], zoom_tokens: int) -> list[Figure]:
    """All of it."""
    from playwright.sync_api import sync_playwright

    binary = next((found for found in map(shutil.which, BROWSERS) if found), None)
    if binary is None:
        raise SystemExit(f"needs a browser: one of {', '.join(BROWSERS)}")
    figures: list[Figure] = []
    with sync_playwright() as playwright, TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        with started() as server:
            memory = server.memory
            browser.new_page().goto("about:blank")
            times = [first_view(browser, server) for _ in range(repeats)]
            figures += [
                Figure("first view", None, statistics.median(cold for cold, _ in times), "s", FIRST_VIEW),
                Figure("seen again", None, statistics.median(warm for _, warm in times), "s"),
                Figure("server memory, at the start", None, memory, "MB"),
                Figure("server memory, after the first views", None, server.memory, "MB"),
            ]
        for tokens in sorted({*payload_tokens, zoom_tokens}):
            sys.stderr.write(f"head page at {tokens:,} tokens\n")
            with started(prose_of(tokens, Path(folder))) as server:
                begun = time.perf_counter()
                page, _ = opened(browser, server)  # the text is read, its maps are pooled
                figures.append(Figure("head page, text not read yet", tokens, time.perf_counter() - begun, "s"))
                page.context.close()
                begun = time.perf_counter()
                page, weight = opened(browser, server)
                figures.append(Figure("head page, text read", tokens, time.perf_counter() - begun, "s"))
                sent, unpacked = weight()
                bound = PAYLOAD if tokens in payload_tokens else None
                figures += [
                    Figure("head payload, sent", tokens, sent / 1000, "kB", None if bound is None else bound / 1000),
                    Figure(
                        "head payload, unpacked", tokens, unpacked / 1000, "kB", None if bound is None else bound / 1000
                    ),
                ]
                if tokens == zoom_tokens:
                    steps = zooms(page, 4)
                    figures += [
                        Figure("zoom, median", tokens, statistics.median(steps), "s", ZOOM),
                        Figure("zoom, slowest of 8", tokens, max(steps), "s"),
                    ]
                figures.append(Figure("server memory", tokens, server.memory, "MB"))
                page.context.close()
        browser.close()
    return figures


def table(figures: list[Figure]) -> str:
    """The figures as Markdown."""
    lines = ["| what | tokens | measured | bound |", "|---|---|---|---|"]
    for each in figures:
        digits = 2 if each.unit == "s" else 0
        bound = (
            ""
            if each.bound is None
            else f"{each.bound:,g} {each.unit}{'' if each.value <= each.bound else ' (missed)'}"
        )
        tokens = "" if each.tokens is None else f"{each.tokens:,}"
        lines.append(f"| {each.what} | {tokens} | {each.value:,.{digits}f} {each.unit} | {bound} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="first views, of which the median counts")
    parser.add_argument(
        "--tokens", type=int, nargs="*", default=list(PAYLOAD_TOKENS), help="lengths of the Head page's text"
    )
    parser.add_argument("--zoom-tokens", type=int, default=ZOOM_TOKENS)
    parser.add_argument("--out", type=Path, help="folder for app.md")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    figures = measure(given.repeats, tuple(given.tokens), given.zoom_tokens)
    machine = (
        f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} CPUs, Python {platform.python_version()}; "
        f"browser and server on the same machine, whose load was {load:.1f} before."
    )
    text = f"{table(figures)}\n{machine}\n\n`python benchmarks/app.py`\n"
    sys.stdout.write(text)
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "app.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
