"""The script that pages draw with: the right version, unchanged, and able to draw every kind of trace that we use."""

from __future__ import annotations

import hashlib
import re
from importlib import resources
from pathlib import Path

from plotly.offline import get_plotlyjs

from interp.plots.script import TRACES, plotly_script

ROOT = Path(__file__).resolve().parents[3]
FOLDER = resources.files("interp.plots").joinpath("plotly_js")


def version(script: str) -> str:
    found = re.search(r"plotly\.js (?:\(.*?\) )?v([0-9.]+)", script[:400])
    assert found
    return found[1]


def test_it_is_the_version_that_figures_are_made_for() -> None:
    assert version(plotly_script()) == version(get_plotlyjs())


def test_it_is_the_file_that_its_makers_publish() -> None:
    said = FOLDER.joinpath("README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(FOLDER.joinpath("plotly-cartesian.min.js").read_bytes()).hexdigest() in said
    assert f"version {version(plotly_script())}" in said


def test_it_may_stand_within_a_page() -> None:
    assert "</script" not in plotly_script().lower()


def test_it_draws_every_kind_of_trace_that_we_use() -> None:
    used = set()
    for folder in ("interp", "app/interp_app"):
        for file in (ROOT / folder).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            used |= {name.lower() for name in re.findall(r"\bgo\.([A-Z]\w+)\(", text)} - {"figure"}
            used |= set(
                re.findall(r"\.add_(scatter\w*|bar|heatmap|histogram\w*|contour|surface|sankey|table|mesh3d)\(", text)
            )
    assert {"bar", "heatmap", "scatter"} <= used
    assert used <= TRACES
