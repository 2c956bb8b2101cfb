"""The script that draws figures in a page: see plotly_js/README.md."""

from __future__ import annotations

from functools import cache
from importlib import resources

TRACES = frozenset(
    {
        "bar",
        "box",
        "contour",
        "heatmap",
        "histogram",
        "histogram2d",
        "histogram2dcontour",
        "image",
        "pie",
        "scatter",
        "violin",
    }
)
"""Kinds of traces that it can draw; a page shows nothing of another kind."""


@cache
def plotly_script() -> str:
    """The text of the script (1.5 MB), for a page that is to be self-contained or a server that serves it as a file."""
    return resources.files("interp.plots").joinpath("plotly_js/plotly-cartesian.min.js").read_text(encoding="utf-8")
