"""Needles found by length and depth, beside the heads that found them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.naming import head_name

if TYPE_CHECKING:
    from interp.heads.retrieval_result import RetrievalResult

CELL, NUMBERED_CELL, MOST_PIXELS = 56, 40, 620
MARGIN = {"l": 60, "r": 90, "t": 40, "b": 56}
GAP = 190


def retrieval_figure(result: RetrievalResult) -> go.Figure:
    """Two grids.

    Left: mean recall of the needles in percent, a row a prompt's length (tokens), a column a needle's depth (percent of the
    haystack, 0 its start); white is 0, blue 100.

    Right: retrieval scores, a row a layer (0 at the top), a column a query head. Colour runs from 0 to 1; a score above 1
    (answers that repeat themselves) has the colour of 1, and its number is told. A frame marks heads above the threshold. Grey
    is a score that is not defined: no trial counted. Small grids show numbers. Hovering gives score, standard error, chance.
    """
    recall, scores = result.recall_grid(), result.scores
    left, right = _pixels(recall.shape), _pixels(scores.shape)
    width = left[1] + right[1] + GAP
    figure = make_subplots(
        rows=1,
        cols=2,
        column_widths=[left[1] / (left[1] + right[1]), right[1] / (left[1] + right[1])],
        horizontal_spacing=GAP / width,
        subplot_titles=("recall of the needles, %", "retrieval score of the heads"),
    )
    figure.add_trace(_recall(recall.to_numpy(), left[2], left[1] / width), row=1, col=1)
    lengths, depths = [f"{length:,}" for length in recall.index], [f"{depth:g}" for depth in recall.columns]
    figure.update_xaxes(_named(depths, "depth, %"), row=1, col=1)
    figure.update_yaxes(_named(lengths, "tokens of the prompt"), autorange="reversed", row=1, col=1)
    figure.add_trace(_heads(result, right[2]), row=1, col=2)
    layer, head = np.nonzero(scores > result.threshold)
    # White would vanish on the bright end of the scale.
    colours = np.where(scores[layer, head] < 0.7, "#ffffff", "#111111")
    frame = {"symbol": "square-open", "size": max(4, right[2] - 8), "color": colours, "line": {"width": 2}}
    figure.add_scatter(x=head, y=layer, mode="markers", marker=frame, hoverinfo="skip", showlegend=False, row=1, col=2)
    heads, layers = scores.shape[1], [str(number) for number in result.layers]
    figure.update_xaxes(_named([str(n) for n in range(heads)], "head"), range=[-0.5, heads - 0.5], row=1, col=2)
    figure.update_yaxes(_named(layers, "layer"), range=[len(layers) - 0.5, -0.5], row=1, col=2)
    figure.update_layout(
        width=width + MARGIN["l"] + MARGIN["r"],
        height=max(left[0], right[0]) + MARGIN["t"] + MARGIN["b"],
        margin=MARGIN,
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#8a929e", "activecolor": "#1c2330"},
        plot_bgcolor="#c9c9c9",
        paper_bgcolor="rgba(0,0,0,0)",
    )
    return figure


def _recall(grid: np.ndarray, cell: float, end: float) -> go.Heatmap:
    return go.Heatmap(
        z=grid,
        zmin=0,
        zmax=100,
        colorscale="Blues",
        colorbar={"thickness": 12, "x": end + 0.01, "xanchor": "left", "tickvals": [0, 25, 50, 75, 100]},
        hovertemplate="recall %{z:.0f} %<extra></extra>",
        texttemplate="%{z:.0f}" if cell >= NUMBERED_CELL else None,
        xgap=1,
        ygap=1,
    )


def _heads(result: RetrievalResult, cell: float) -> go.Heatmap:
    scores = result.scores
    names = [[head_name(layer, head) for head in range(scores.shape[1])] for layer in result.layers]
    chance = np.broadcast_to(result.chance[:, None], scores.shape)
    return go.Heatmap(
        z=scores,
        customdata=np.dstack([np.array(names), result.stderr, chance]),
        zmin=0,
        zmax=1,
        colorscale="Viridis",
        colorbar={"thickness": 12, "tickvals": [0, 0.25, 0.5, 0.75, 1]},
        hovertemplate=(
            "<b>%{customdata[0]}</b><br>score %{z:.3f} ± %{customdata[1]:.3f}<br>chance %{customdata[2]:.4f}<extra></extra>"
        ),
        hoverongaps=False,
        texttemplate="%{z:.2f}" if cell >= NUMBERED_CELL else None,
        xgap=1,
        ygap=1,
    )


def _pixels(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Height, width and the side of a cell."""
    rows, columns = shape
    cell = max(6, min(CELL, MOST_PIXELS // max(rows, columns)))
    return max(180, rows * cell), max(220, columns * cell), cell


def _named(texts: list[str], title: str) -> dict[str, object]:
    """An axis of places with these names, a part of them where there are many."""
    step = max(1, len(texts) // 16)
    places = list(range(0, len(texts), step))
    return {
        "title": title,
        "tickvals": places,
        "ticktext": [texts[place] for place in places],
        "showgrid": False,
        "zeroline": False,
    }
