"""Head dossiers as figures: one head's passages by value beside its attention by distance, and all heads by two metrics."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.naming import head_name
from interp.plots.themes import dress, theme

if TYPE_CHECKING:
    from interp.dossiers.head import HeadDossier
    from interp.dossiers.result import HeadDossiers

WIDTH, HEIGHT = 860, 270
MARGIN = {"l": 56, "r": 16, "t": 46, "b": 48}
UNITS = {"entropy": "nats", "distance": "tokens", "distance_variance": "tokens²"}
NAMED = 6
"""Heads whose names stand in the figure of all heads: those furthest up and furthest right."""


def dossier_figure(dossier: HeadDossier, *, dark: bool = False) -> go.Figure:
    """Two panels of one head.

    Left: how many passages have each value of the metric that ranks them. Dashed lines cut the distribution into fifths;
    the dotted line is chance, where the metric has one.

    Right: the mean share of attention at each distance, in bins that double (0, 1, 2 to 3, 4 to 7, ...), which sum to 1 where no
    sink takes a part; points on a dotted line are uniform attention over the visible keys. Whiskers are two standard errors over
    passages.
    """
    of = theme(dark)
    figure = make_subplots(
        rows=1,
        cols=2,
        column_widths=[0.5, 0.5],
        horizontal_spacing=0.11,
        subplot_titles=(f"passages by {dossier.by}", "attention by distance"),
    )
    _passages(figure, dossier, of.lines[0], of.lines[1], of.lines[2])
    _distance(figure, dossier, of.lines[0], of.lines[2])
    dress(figure, dark, width=WIDTH, height=HEIGHT, margin=MARGIN, showlegend=False, bargap=0.06)
    figure.update_annotations(font={"size": 13})
    return figure


def heads_figure(dossiers: HeadDossiers, x: str, y: str, *, dark: bool = False) -> go.Figure:
    """Every head as a point: one metric's mean on each axis, colour its layer. The dotted lines are chance, the mean over layers.

    The heads furthest up and furthest right are named; hovering names any.
    """
    of = theme(dark)
    table = dossiers.to_frame().pivot(index=["layer", "head"], columns="metric", values=["value", "chance"])
    for name in (x, y):
        dossiers.of(name)  # refuses metrics that were not measured
    layer, head = (table.index.get_level_values(name).to_numpy() for name in ("layer", "head"))
    values = {name: table[("value", name)].to_numpy(dtype=float) for name in (x, y)}
    names = np.array([head_name(int(a), int(b)) for a, b in zip(layer, head, strict=True)])
    leading = {
        int(n) for each in values.values() for n in np.argsort(-np.nan_to_num(each), kind="stable")[: NAMED // 2]
    }
    leading |= set(np.argsort(-np.nan_to_num(values[y]), kind="stable")[:NAMED].tolist())
    figure = go.Figure(
        go.Scatter(
            x=values[x],
            y=values[y],
            mode="markers+text",
            text=[name if n in leading else "" for n, name in enumerate(names)],
            textposition="top center",
            textfont={"size": 11, "color": of.text},
            customdata=names,
            marker={
                "size": 9,
                "color": layer,
                "colorscale": "Viridis",
                "line": {"width": 0.5, "color": of.text},
                "colorbar": {"title": {"text": "layer"}, "thickness": 10, "dtick": max(1, len(dossiers.layers) // 8)},
            },
            hovertemplate=f"<b>%{{customdata}}</b><br>{x} %{{x:.4g}}<br>{y} %{{y:.4g}}<extra></extra>",
        )
    )
    for name, add in ((x, figure.add_vline), (y, figure.add_hline)):
        chance = table[("chance", name)].to_numpy(dtype=float)
        if not np.isnan(chance).all():
            add(float(np.nanmean(chance)), line={"color": of.faint, "dash": "dot", "width": 1.2})
    dress(figure, dark, width=620, height=440, margin={"l": 64, "r": 20, "t": 20, "b": 54}, showlegend=False)
    figure.update_xaxes(title=_axis(x), rangemode="tozero")
    return figure.update_yaxes(title=_axis(y), rangemode="tozero")


def _passages(figure: go.Figure, dossier: HeadDossier, bar: str, cut: str, chance: str) -> None:
    rows = dossier.histogram()
    low, high, count = (rows[name].to_numpy(dtype=float) for name in ("low", "high", "count"))
    at: dict[str, Any] = {"row": 1, "col": 1}
    doubles = dossier.by in ("distance", "distance_variance")
    # Bins that double have the same width each.
    x = np.arange(len(low)) + 0.5 if doubles else (low + high) / 2
    figure.add_bar(
        x=x,
        y=count,
        width=1.0 if doubles else high - low,
        marker={"color": bar, "line": {"width": 0}},
        customdata=np.column_stack([low, high]),
        hovertemplate="%{y:.0f} passages from %{customdata[0]:.4g} to %{customdata[1]:.4g}<extra></extra>",
        **at,
    )

    def place(value: float) -> float:
        if not doubles:
            return value
        n = int(np.clip(np.searchsorted(low, value, side="right") - 1, 0, len(low) - 1))
        return n + (value - low[n]) / (high[n] - low[n])

    for n in range(1, 5):
        value = float(rows[f"cut_{n}"].iloc[0])
        if not math.isnan(value):
            figure.add_vline(place(value), line={"color": cut, "dash": "dash", "width": 1.2}, **at)
    level = dossier.chance(dossier.by)
    if not math.isnan(level):
        figure.add_vline(place(level), line={"color": chance, "dash": "dot", "width": 1.2}, **at)
    ticks: dict[str, Any] = {"range": [float(low[0]), float(high[-1])]}
    if doubles:
        step = -(-len(low) // 8)
        shown = list(range(0, len(low), step))
        ticks = {
            "tickvals": shown,
            "ticktext": [f"{low[n]:,.0f}" for n in shown],
            "range": [0, len(low)],
            "tickangle": 0,
        }
    figure.update_xaxes(title={"text": _axis(dossier.by), "standoff": 6}, **ticks, **at)
    figure.update_yaxes(title={"text": "passages", "standoff": 6}, rangemode="tozero", **at)


def _distance(figure: go.Figure, dossier: HeadDossier, bar: str, chance: str) -> None:
    rows = dossier.distance
    low, high = (rows[name].to_numpy(dtype=int) for name in ("low", "high"))
    names = [
        f"{a:,}" if b == a + 1 else f"{a:,} to {b - 1:,}" for a, b in zip(low.tolist(), high.tolist(), strict=True)
    ]
    at: dict[str, Any] = {"row": 1, "col": 2}
    x = np.arange(len(low))
    figure.add_bar(
        x=x,
        y=rows["mass"],
        error_y={"array": 2 * np.nan_to_num(rows["stderr"].to_numpy(dtype=float)), "thickness": 1, "width": 2},
        marker={"color": bar, "line": {"width": 0}},
        customdata=names,
        hovertemplate="%{customdata} tokens away: %{y:.3f}<extra></extra>",
        **at,
    )
    figure.add_scatter(
        x=x,
        y=rows["chance"],
        mode="lines+markers",
        line={"color": chance, "dash": "dot", "width": 1.2},
        marker={"size": 4, "color": chance},
        customdata=names,
        hovertemplate="uniform attention, %{customdata} tokens away: %{y:.3f}<extra></extra>",
        **at,
    )
    step = -(-len(low) // 9)
    shown = list(range(0, len(low), step))
    ticks = {"tickvals": shown, "ticktext": [f"{low[n]:,}" for n in shown], "tickangle": 0}
    figure.update_xaxes(title={"text": "distance in tokens, from … on", "standoff": 6}, **ticks, **at)
    figure.update_yaxes(title={"text": "mean share", "standoff": 6}, rangemode="tozero", **at)


def _axis(metric: str) -> str:
    return f"{metric}, {UNITS[metric]}" if metric in UNITS else metric
