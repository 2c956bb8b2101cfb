"""Which heads a loss hangs on, and what is left as the least important ones go."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from interp.plots.heads import LARGEST_CELL, MARGIN, MOST_PIXELS, NUMBERED_CELL

if TYPE_CHECKING:
    from interp.causal.importance import Importance
    from interp.causal.pruning import PruningCurve

GIVEN, RANDOM, BAND = "#c1272d", "#5b6b82", "rgba(91, 107, 130, 0.18)"


def importance_grid(result: Importance) -> go.Figure:
    """Importance as a grid: a row a layer (the first at the top), a column a query head.

    Marks: colour runs from 0 to the largest importance; grey is no head (layers may have fewer than others). Small grids show the
    number in each cell. Hovering gives importance, standard error and rank.
    """
    frame = result.to_frame()
    layers = list(dict.fromkeys(frame["layer"]))
    heads = int(frame["head"].max()) + 1
    row = frame["layer"].map({layer: place for place, layer in enumerate(layers)}).to_numpy()
    grids = []
    for column in ("importance", "stderr", "rank"):
        grid = np.full((len(layers), heads), np.nan)
        grid[row, frame["head"]] = frame[column]
        grids.append(grid)
    names = np.full((len(layers), heads), "", dtype=object)
    names[row, frame["head"]] = frame["name"]
    cell = max(6, min(LARGEST_CELL, MOST_PIXELS // max(len(layers), heads)))
    top = float(frame["importance"].max())
    figure = go.Figure(
        go.Heatmap(
            z=grids[0],
            customdata=np.dstack([names, grids[1], grids[2]]),
            zmin=0,
            zmax=top if top > 0 else 1,
            colorscale="Viridis",
            colorbar={"title": {"text": "importance"}, "thickness": 12, "len": 1.0},
            hovertemplate=(
                "<b>%{customdata[0]}</b><br>importance %{z:.3g} ± %{customdata[1]:.2g}<br>rank %{customdata[2]}<extra></extra>"
            ),
            hoverongaps=False,
            texttemplate="%{z:.2g}" if cell >= NUMBERED_CELL else None,
            textfont={"size": 11},
            xgap=1,
            ygap=1,
        )
    )
    every = max(1, 24 // cell)
    plain = {"showgrid": False, "zeroline": False}
    figure.update_layout(
        xaxis={"title": "head", "range": [-0.5, heads - 0.5], "dtick": every, **plain},
        yaxis={
            "title": "layer",
            "range": [len(layers) - 0.5, -0.5],
            "tickvals": list(range(0, len(layers), every)),
            "ticktext": [str(layer) for layer in layers[::every]],
            **plain,
        },
        width=max(220, heads * cell) + MARGIN["l"] + MARGIN["r"] + 20,
        height=max(120, len(layers) * cell) + MARGIN["t"] + MARGIN["b"],
        margin=MARGIN,
        plot_bgcolor="#c9c9c9",
        paper_bgcolor="rgba(0,0,0,0)",
    )
    return figure


def pruning_figure(result: PruningCurve) -> go.Figure:
    """The metric as heads are ablated.

    Marks: the red line is the given order, the least important first, its bars one standard error over samples. The grey line is
    the mean of the random orders, the band reaches from the least to the greatest of them.
    """
    frame, rows = result.to_frame(), result.compared()
    given = frame[frame["order"] == "given"]
    x = rows["pruned"]
    figure = go.Figure()
    for column, fill in (("random_high", None), ("random_low", "tonexty")):
        figure.add_scatter(
            x=x,
            y=rows[column],
            mode="lines",
            line={"width": 0},
            fill=fill,
            fillcolor=BAND,
            hoverinfo="skip",
            showlegend=fill is not None,
            name="least to greatest of random orders",
        )
    figure.add_scatter(
        x=x,
        y=rows["random"],
        mode="lines+markers",
        name="random order, mean",
        line={"color": RANDOM, "width": 2},
        hovertemplate="%{x} heads ablated at random<br>%{y:.3g}<extra></extra>",
    )
    figure.add_scatter(
        x=given["pruned"],
        y=given["value"],
        error_y={"type": "data", "array": given["stderr"].fillna(0), "thickness": 1.2, "width": 4},
        mode="lines+markers",
        name="least important first",
        line={"color": GIVEN, "width": 2},
        hovertemplate="%{x} heads ablated, least important first<br>%{y:.3g}<extra></extra>",
    )
    unit = f" ({escape(result.unit, quote=False)})" if result.unit else ""
    worse = "up" if result.worse == "higher" else "down"
    figure.update_layout(
        xaxis={"title": f"heads ablated, of {len(result.heads)}", "gridcolor": "#e3e6ea", "zeroline": False},
        yaxis={
            "title": f"{escape(result.task, quote=False)}{unit}, {worse} is worse",
            "gridcolor": "#e3e6ea",
            "zeroline": False,
        },
        width=760,
        height=420,
        margin={"l": 70, "r": 20, "t": 30, "b": 50},
        legend={"x": 0.02, "y": 0.98},
        plot_bgcolor="#ffffff",
        paper_bgcolor="rgba(0,0,0,0)",
    )
    return figure
