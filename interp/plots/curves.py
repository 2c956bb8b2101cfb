"""Curves over positions that hold few points however long the text is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from interp.plots.labels import token_label
from interp.plots.themes import Theme

MOST_POINTS = 240
"""Positions that a curve shows one by one; of more, it shows runs of equal length by their mean, with least and largest."""
CHANCE = "chance: uniform attention over the visible keys"


@dataclass(frozen=True, eq=False)
class Curve:
    """A number by position, with its chance where it has one, and how it is written."""

    first: int
    values: np.ndarray
    chance: np.ndarray | None
    tokens: Sequence[str]
    side: str
    name: str
    least: float | None = None  # what a logarithmic axis shows at the bottom


def add_curve(figure: go.Figure, curve: Curve, of: Theme, **at: int) -> None:
    """The curve as a line; of runs their means, with a band from the least to the largest. Dotted: chance. at: row and col."""
    chance_in_legend = "row" not in at
    runs = runs_of(curve)
    floor = curve.least or -np.inf
    if runs.size > 1:
        band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        figure.add_scatter(x=runs.x, y=np.maximum(runs.least, floor), **band, **at)
        fill = of.lines[0] + "40"
        figure.add_scatter(x=runs.x, y=np.maximum(runs.largest, floor), fill="tonexty", fillcolor=fill, **band, **at)
    figure.add_scatter(
        x=runs.x,
        y=np.maximum(runs.mean, floor),
        customdata=np.array(runs.names, dtype=object),
        mode="lines",
        line={"color": of.lines[0], "width": 1.5},
        name=curve.name,
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
        **at,
    )
    if runs.chance is None:
        return
    figure.add_scatter(
        x=runs.x,
        y=np.maximum(runs.chance, floor),
        mode="lines",
        line={"color": of.lines[2], "dash": "dot", "width": 1.2},
        name=CHANCE,
        hovertemplate="chance %{y:.4g}<extra></extra>",
        showlegend=chance_in_legend,
        **at,
    )


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of ``size`` positions: float32 [n] each, NaN where all of a run is; names: what hovering says."""

    size: int
    x: np.ndarray
    mean: np.ndarray
    least: np.ndarray
    largest: np.ndarray
    chance: np.ndarray | None
    names: list[str]


def runs_of(curve: Curve) -> Runs:
    """At most ``MOST_POINTS`` of them, of one length but the last."""
    count = len(curve.values)
    size = -(-count // MOST_POINTS)
    first = np.arange(0, count, size)
    last = np.minimum(first + size, count) - 1

    def known_of(values: np.ndarray) -> list[np.ndarray]:
        runs = [values[a : b + 1] for a, b in zip(first, last, strict=True)]
        return [run[~np.isnan(run)] for run in runs]

    known = known_of(curve.values)

    def each(reduce: Any, runs: list[np.ndarray]) -> np.ndarray:
        return np.array([reduce(run) if len(run) else np.nan for run in runs], dtype=np.float32)

    if size == 1:
        tokens = [f" “{token_label(token)}”" for token in curve.tokens] or [""] * count
        names = [
            f"{curve.side} {n + curve.first:,}{token}<br>{curve.name} {value:.4g}"
            for n, (token, value) in enumerate(zip(tokens, curve.values, strict=True))
        ]
    else:
        plural = "queries" if curve.side == "query" else "keys"
        names = [
            f"{plural} {a + curve.first:,} to {b + curve.first:,}<br>{curve.name}: mean {run.mean():.4g}, from "
            f"{run.min():.4g} to {run.max():.4g}"
            if len(run)
            else ""
            for a, b, run in zip(first, last, known, strict=True)
        ]
    return Runs(
        size=size,
        x=((first + last) / 2 + curve.first).astype(np.float32),
        mean=each(np.mean, known),
        least=each(np.min, known),
        largest=each(np.max, known),
        chance=None if curve.chance is None else each(np.mean, known_of(curve.chance)),
        names=names,
    )
