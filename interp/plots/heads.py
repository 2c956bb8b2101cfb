"""Layer x head grid of one detector's scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from interp.naming import head_name

if TYPE_CHECKING:
    from interp.scores import HeadScores

CELL, MARGIN = 34, {"l": 56, "r": 92, "t": 14, "b": 48}
MOST_PIXELS = 900


def head_grid(scores: HeadScores, detector: str) -> go.Figure:
    """Scores of one detector as a grid: a row a layer (0 at the top), a column a query head.

    Marks: colour is the score on a fixed range from 0 to 1, so that grids can be compared; a ring marks heads above the
    detector's threshold; grey is a score that is not defined. Hovering gives score, standard error, chance level and the
    share of samples above the threshold.
    """
    grid = scores.grid(detector)
    layers, heads = grid.shape
    columns = [scores.grid(detector, name) for name in ("stderr", "chance", "threshold", "share_above", "samples")]
    names = np.array([[head_name(layer, head) for head in range(heads)] for layer in range(layers)])
    figure = go.Figure(
        go.Heatmap(
            z=grid,
            customdata=np.dstack([names, *columns]),
            zmin=0.0,
            zmax=1.0,
            colorscale="Viridis",
            colorbar={"title": {"text": "score"}, "thickness": 12, "len": 1.0, "tickvals": [0, 0.25, 0.5, 0.75, 1]},
            hovertemplate=(
                "<b>%{customdata[0]}</b><br>score %{z:.3f} ± %{customdata[1]:.3f}<br>chance %{customdata[2]:.3f}"
                "<br>threshold %{customdata[3]}<br>%{customdata[4]:.0%} of %{customdata[5]} samples above<extra></extra>"
            ),
            hoverongaps=False,
            xgap=1,
            ygap=1,
        )
    )
    above = scores.grid(detector, "is_above").astype(bool)
    layer, head = np.nonzero(above)
    ring = {"symbol": "circle-open", "size": 11, "color": "#ffffff", "line": {"width": 2}}
    figure.add_scatter(x=head, y=layer, mode="markers", marker=ring, hoverinfo="skip", showlegend=False)
    cell = max(6, min(CELL, MOST_PIXELS // max(layers, heads)))
    axis = {"dtick": max(1, 24 // cell), "showgrid": False, "zeroline": False, "constrain": "domain"}
    figure.update_layout(
        xaxis={"title": "head", **axis},
        yaxis={"title": "layer", "autorange": "reversed", **axis},
        width=max(260, heads * cell) + MARGIN["l"] + MARGIN["r"],
        height=max(120, layers * cell) + MARGIN["t"] + MARGIN["b"],
        margin=MARGIN,
        plot_bgcolor="#c9c9c9",
        paper_bgcolor="rgba(0,0,0,0)",
    )
    return figure
