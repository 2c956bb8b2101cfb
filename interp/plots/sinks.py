"""Sinks of a model in one figure: by position, by head, and the residual stream beside them."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.errors import InputError
from interp.naming import head_name

if TYPE_CHECKING:
    from interp.heads.sinks_result import Sinks

RATE, MEDIAN, LARGEST, MASSIVE = "#2563a8", "#6b7280", "#c2410c", "#111111"


def sinks_figure(result: Sinks, position: int | None = None) -> go.Figure:
    """Three panels.

    Left: Sink_k, the share of heads and samples with alpha_k above the threshold, for each position k; whiskers are two
    standard errors over samples. Positions that too few queries follow are left out. Middle: alpha_k of each head at one
    position, the one with the largest rate unless ``position`` is given; colours run from 0 to 1, grey is a head that a layer
    lacks, a frame marks heads above the threshold. Right: the residual stream as it enters each block and leaves the last:
    its median |x| and its largest |x|, one mark a rank (black diamonds where massive), on a logarithmic axis with the rule's
    two bounds dotted.

    Raises:
        InputError: there is no such position.
    """
    k = result.strongest if position is None else position
    if type(k) is not int or not 0 <= k < len(result.rate):
        raise InputError(f"position: expected a whole number from 0 to {len(result.rate) - 1}, got {position!r}")
    threshold = result.settings["constants"]["threshold"]
    has_stream = len(result.stream) > 0
    titles = [
        f"Sink rate by position (alpha > {threshold:g})",
        f"alpha at position {k}",
        *(["Residual stream, |x|"] * has_stream),
    ]
    figure = make_subplots(rows=1, cols=len(titles), subplot_titles=titles, horizontal_spacing=0.13)
    _rates(figure, result)
    _heads(figure, result, k, threshold)
    if has_stream:
        _stream(figure, result)
    figure.update_layout(
        width=360 * len(titles) + 60,
        height=400,
        margin={"l": 60, "r": 30, "t": 48, "b": 76},
        plot_bgcolor="#f3f3f3",
        paper_bgcolor="rgba(0,0,0,0)",
        legend={"x": 1, "xanchor": "right", "y": -0.16, "yanchor": "top", "orientation": "h"},
    )
    return figure


def _rates(figure: go.Figure, result: Sinks) -> None:
    at = np.arange(result.counted)
    rate, error = result.rate[at], 2 * result.rate_stderr[at]
    figure.add_scatter(
        x=at,
        y=rate,
        error_y={"array": np.nan_to_num(error), "thickness": 1, "width": 0},
        mode="markers",
        marker={"color": RATE, "size": 5},
        customdata=result.samples[at],
        hovertemplate="position %{x}<br>Sink rate %{y:.1%}<br>%{customdata} samples<extra></extra>",
        showlegend=False,
        row=1,
        col=1,
    )
    figure.update_xaxes(title_text="position k", range=[-1, len(at)], row=1, col=1)
    top = float(min(1.0, max(0.05, np.nanmax(rate + np.nan_to_num(error)) * 1.1)))
    figure.update_yaxes(
        title_text="share of heads and samples", tickformat=".0%", range=[-0.02 * top, top], row=1, col=1
    )


def _heads(figure: go.Figure, result: Sinks, k: int, threshold: float) -> None:
    grid, share = result.alpha[:, :, k], result.alpha_above[:, :, k]
    layers, heads = grid.shape
    names = np.array([[head_name(layer, head) for head in range(heads)] for layer in result.layers])
    chance = np.broadcast_to(result.chance[:, k, None], grid.shape)
    figure.add_heatmap(
        z=grid,
        customdata=np.dstack([names, share, chance]),
        zmin=0,
        zmax=1,
        colorscale="Viridis",
        colorbar={"thickness": 10, "x": _edge(figure, 2), "xanchor": "left", "title": {"text": "alpha"}},
        hovertemplate=(
            "<b>%{customdata[0]}</b><br>alpha %{z:.3f} (chance %{customdata[2]:.3f})<br>above the threshold in "
            "%{customdata[1]:.0%} of samples<extra></extra>"
        ),
        hoverongaps=False,
        texttemplate="%{z:.2f}" if max(layers, heads) <= 8 else None,
        xgap=1,
        ygap=1,
        row=1,
        col=2,
    )
    layer, head = np.nonzero(grid > threshold)
    dark = grid[layer, head] < 0.7
    size = max(4, min(30, 220 // max(layers, heads)))
    marker = {
        "symbol": "square-open",
        "size": size,
        "color": np.where(dark, "#ffffff", "#111111"),
        "line": {"width": 2},
    }
    figure.add_scatter(x=head, y=layer, mode="markers", marker=marker, hoverinfo="skip", showlegend=False, row=1, col=2)
    step = max(1, layers // 16)
    ticks = {"tickvals": list(range(0, layers, step)), "ticktext": [str(n) for n in result.layers[::step]]}
    figure.update_xaxes(
        title_text="head", range=[-0.5, heads - 0.5], dtick=max(1, heads // 16), showgrid=False, row=1, col=2
    )
    figure.update_yaxes(title_text="layer", range=[layers - 0.5, -0.5], showgrid=False, **ticks, row=1, col=2)


def _stream(figure: go.Figure, result: Sinks) -> None:
    places, stream, rows = len(result.stream), result.stream, result.activations
    figure.add_scatter(
        x=stream["place"],
        y=stream["median"].where(stream["median"] > 0),
        mode="lines+markers",
        name="median",
        line={"color": MEDIAN},
        hovertemplate="%{x}<br>median %{y:.3g}<extra></extra>",
        row=1,
        col=3,
    )
    where = [
        f"{escape(repr(str(token)))}, sample {sample}, position {position}, dimension {dimension}<br>{value:.3g}, "
        f"{ratio:.1f} times the median"
        for token, sample, position, dimension, value, ratio in zip(
            *(rows[name] for name in ("token", "sample", "position", "dimension", "value", "ratio")), strict=True
        )
    ]
    figure.add_scatter(
        x=rows["place"],
        y=rows["value"].abs().where(rows["value"] != 0),
        mode="markers",
        name="largest",
        marker={
            "color": np.where(rows["is_massive"], MASSIVE, LARGEST),
            "symbol": np.where(rows["is_massive"], "diamond", "circle"),
            "size": 8,
        },
        customdata=where,
        hovertemplate="%{customdata}<extra></extra>",
        row=1,
        col=3,
    )
    constants = result.settings["constants"]
    bounds = (stream["median"] * constants["massive_ratio"], stream["median"] * 0 + constants["massive_size"])
    for number, bound in enumerate(bounds):
        figure.add_scatter(
            x=stream["place"],
            y=bound.where(bound > 0),
            mode="lines",
            name="bounds of the rule",
            line={"color": MEDIAN, "dash": "dot", "width": 1},
            hovertemplate="a massive activation exceeds %{y:.3g}<extra></extra>",
            showlegend=number == 0,
            row=1,
            col=3,
        )
    texts = [*(f"into {n}" for n in range(places - 1)), "out"]
    step = max(1, places // 8)
    shown = [*range(0, places - 1, step), places - 1]
    figure.update_xaxes(
        tickvals=shown, ticktext=[texts[n] for n in shown], tickangle=0, title_text="block", row=1, col=3
    )
    figure.update_yaxes(type="log", dtick=1, row=1, col=3)


def _edge(figure: go.Figure, column: int) -> float:
    """Where a panel ends, as a share of the figure's width."""
    layout: Any = figure.layout
    return float(layout[f"xaxis{column}"]["domain"][1]) + 0.005
