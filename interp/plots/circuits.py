"""What heads' value-output circuits do, as grids of heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from interp.naming import head_name
from interp.plots.heads import LARGEST_CELL, MARGIN, MOST_PIXELS, NUMBERED_CELL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interp.heads.maps_score import MapsScores
    from interp.heads.ov_copying import OVCopying


def copying_grid(result: OVCopying) -> go.Figure:
    """The copying score of each head: a row a layer (0 at the top), a column a query head.

    Marks: red copies (1: every direction raises its own tokens), blue suppresses (-1), white does neither, whatever the model.
    Grey: not defined. Small grids show the number. Hovering gives the mean rank of a token's own logit (0 highest, 0.5 chance)
    and the share of tokens with their own logit among the largest.
    """
    hover = (
        "<b>%{customdata[0]}</b><br>copying score %{z:+.3f}<br>rank of the own logit %{customdata[1]:.3f} ± %{customdata[2]:.3f} "
        f"(0 highest)<br>own logit in the top {result.k}: %{{customdata[3]:.1%}}<extra></extra>"
    )
    columns = [result.own_rank, result.own_stderr, result.top_share]
    return _grid(result.scores, result.layers, columns, hover, (-1.0, 1.0), "RdBu_r")


def maps_grid(result: MapsScores) -> go.Figure:
    """The share of pairs with the target in the top k of each head: a row a layer (0 at the top), a column a query head.

    Marks: colour is the share from 0 to 1, for every relation alike. Grey: the layer has no such head. Small grids show the
    number. Hovering gives the median rank of the targets.
    """
    hover = (
        f"<b>%{{customdata[0]}}</b><br>target in the top {result.k}: %{{z:.1%}} (chance {result.chance:.2%})"
        "<br>median rank %{customdata[1]}<extra></extra>"
    )
    return _grid(result.scores, result.layers, [result.ranks], hover, (0.0, 1.0), "Viridis")


def _grid(
    values: np.ndarray,
    layers: Sequence[int | str],
    columns: list[np.ndarray],
    hover: str,
    ends: tuple[float, float],
    colours: str,
) -> go.Figure:
    count, heads = values.shape
    names = np.array([[head_name(layer, head) for head in range(heads)] for layer in layers])
    cell = max(6, min(LARGEST_CELL, MOST_PIXELS // max(count, heads)))
    step = max(1, 24 // cell)
    figure = go.Figure(
        go.Heatmap(
            z=values,
            customdata=np.dstack([names, *[column.astype(object) for column in columns]]),
            zmin=ends[0],
            zmax=ends[1],
            colorscale=colours,
            colorbar={"title": {"text": "score"}, "thickness": 12, "len": 1.0},
            hovertemplate=hover,
            hoverongaps=False,
            texttemplate="%{z:.2f}" if cell >= NUMBERED_CELL else None,
            textfont={"size": 12},
            xgap=1,
            ygap=1,
        )
    )
    shown = list(range(0, count, step))
    figure.update_layout(
        xaxis={"title": "head", "range": [-0.5, heads - 0.5], "dtick": step, "showgrid": False, "zeroline": False},
        yaxis={
            "title": "layer",
            "range": [count - 0.5, -0.5],
            "tickvals": shown,
            "ticktext": [str(layers[at]) for at in shown],
            "showgrid": False,
            "zeroline": False,
        },
        width=max(220, heads * cell) + MARGIN["l"] + MARGIN["r"],
        height=max(120, count * cell) + MARGIN["t"] + MARGIN["b"],
        margin=MARGIN,
        plot_bgcolor="#c9c9c9",
        paper_bgcolor="rgba(0,0,0,0)",
    )
    return figure
