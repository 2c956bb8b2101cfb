"""The report in a real browser, opened from disk without a network: the grids are drawn."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from interp.scores import HeadScores
from tests.browser import installed_browser
from tests.interp.test_report import HOSTILE, Page

Open = Callable[[Path], str]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Open:
    """Opens a file and gives the page as it stands after its scripts have run."""
    binary = installed_browser()

    def open_file(file: Path) -> str:
        profile = tmp_path_factory.mktemp("profile")
        quiet = ("no-first-run", "disable-background-networking", "disable-component-update", "disable-sync")
        options = [f"--{name}" for name in ("headless", "no-sandbox", "disable-gpu", *quiet)]
        # Names resolve to nothing: whatever the page would fetch, it would not get.
        options += [
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={profile}",
            "--virtual-time-budget=20000",
        ]
        command = [binary, *options, "--dump-dom", file.as_uri()]
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
        assert run.returncode == 0, run.stderr
        return run.stdout

    return open_file


def drawn(dom: str) -> dict[str, str]:
    """What stands in each grid's div, by the detector's name."""
    starts = [(match.group(1), match.start()) for match in re.finditer(r'<div id="grid-([^"]*)"', dom)]
    ends = [start for _, start in starts[1:]] + [len(dom)]
    return {
        name: dom[start:end].split("<figcaption", maxsplit=1)[0]
        for (name, start), end in zip(starts, ends, strict=True)
    }


def test_every_grid_is_drawn(browser: Open, scores: HeadScores, tmp_path: Path):
    grids = drawn(browser(scores.save(tmp_path)))
    assert list(grids) == scores.detectors
    for name, content in grids.items():
        assert re.search(r'<svg class="main-svg"[^>]*width="\d+"', content), f"{name} is not drawn"
        assert 'class="hm"' in content or "heatmaplayer" in content, f"{name} has no cells"
        assert ">layer<" in content, f"{name} has no axis title"
        assert ">head<" in content
        marks = content.count('class="point"')
        assert marks == int(scores.of(name)["is_above"].sum()), f"{name}: {marks} heads are marked"


def test_hostile_names_run_nothing(browser: Open, scores: HeadScores, tmp_path: Path):
    model = {**scores.settings["model"], "model": HOSTILE.replace("alert(", "document.title=('")}
    HeadScores(scores.frame, {**scores.settings, "model": model}).save(tmp_path)
    page = Page(browser(tmp_path / "report.html"))
    assert page.text("title") == f"Heads of {model['model']}"
    assert not page.having("img")


def test_the_page_as_written_holds_no_drawing(scores: HeadScores, tmp_path: Path):
    """So that what the browser gives was drawn by it."""
    written = scores.save(tmp_path).read_text(encoding="utf-8")
    body = re.sub(r"<script.*?</script>", "", written, flags=re.DOTALL)
    assert 'class="main-svg"' not in body
