"""Colours of figures that come in light and dark: what is ink, what is ground, and what the colours of a scale are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go


@dataclass(frozen=True)
class Theme:
    """text, faint: of titles and of ticks; plane: behind curves; grid; hidden: what cannot be seen; clipped: beyond the scale.

    ramp: colours from 0 up, evenly spaced in lightness; signed: from below 0 over 0 to above; lines: of curves, in order
    """

    text: str
    faint: str
    plane: str
    grid: str
    hidden: str
    clipped: str
    ramp: tuple[str, ...]
    signed: tuple[str, ...]
    lines: tuple[str, ...]


LIGHT = Theme(
    text="#1c2330",
    faint="#5b6472",
    plane="#f3f3f3",
    grid="#ffffff",
    hidden="#c9c9c9",
    clipped="#e8590c",
    ramp=("#ffffff", "#dbe9f6", "#bad6eb", "#89bedc", "#539ecd", "#2b7bba", "#0b559f", "#08306b", "#041836"),
    signed=("#053061", "#2f79b5", "#a7d0e4", "#ffffff", "#fac8af", "#c94741", "#67001f"),
    lines=("#2563a8", "#c2410c", "#111111"),
)
DARK = Theme(
    text="#e6e9ef",
    faint="#a3abb8",
    plane="#1a1e26",
    grid="#2c323d",
    hidden="#4a505b",
    clipped="#ff8a3d",
    ramp=("#0b0e14", "#10233f", "#14386a", "#1a5194", "#2f70bb", "#558fd6", "#85b1ea", "#bad5f7", "#f4f9ff"),
    signed=("#8ec5ff", "#3f7fc4", "#173a66", "#0b0e14", "#6b1f1c", "#cf4c40", "#ffb3a3"),
    lines=("#6aa8ef", "#f0884e", "#e6e9ef"),
)


def theme(dark: bool) -> Theme:
    return DARK if dark else LIGHT


def root_scale(colours: tuple[str, ...], upto: float = 1.0) -> list[tuple[float, str]]:
    """A colour scale on which a quarter of ``upto`` is half way up the colours: the n-th stands at (n / last)^2."""
    last = len(colours) - 1
    return [(upto * (n / last) ** 2, colour) for n, colour in enumerate(colours)]


def even_scale(colours: tuple[str, ...]) -> list[tuple[float, str]]:
    return [(n / (len(colours) - 1), colour) for n, colour in enumerate(colours)]


def dress(figure: go.Figure, dark: bool, **layout: Any) -> go.Figure:
    """The figure in a theme: its text, its grid, its buttons; the paper is left to the page."""
    of = theme(dark)
    figure.update_layout(
        template="none",
        font={"color": of.text, "size": 12},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor=of.plane,
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": of.faint, "activecolor": of.text},
        hoverlabel={"bgcolor": of.plane, "bordercolor": of.faint, "font": {"color": of.text}},
        legend={"bgcolor": "rgba(0,0,0,0)"},
    )
    axes: dict[str, Any] = {
        "tickfont": {"color": of.faint},
        "gridcolor": of.grid,
        "zeroline": False,
        "linecolor": of.faint,
    }
    figure.update_xaxes(**axes)
    figure.update_yaxes(**axes)
    return figure.update_layout(**layout)
