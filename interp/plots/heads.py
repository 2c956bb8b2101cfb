"""Layer x head grid of one detector's scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from interp.naming import head_name

if TYPE_CHECKING:
    from interp.scores import HeadScores

LARGEST_CELL, NUMBERED_CELL = 52, 40
MARGIN = {"l": 56, "r": 100, "t": 30, "b": 48}
MOST_PIXELS = 900


def head_grid(scores: HeadScores, detector: str) -> go.Figure:
    """Scores of one detector as a grid: a row a layer (0 at the top), a column a query head.

    Marks: colour is the score on the detector's fixed range (mostly 0 to 1), so that grids can be compared; where the range
    has two signs, blue is below 0 and red above. A frame marks heads above the detector's threshold; grey is a score that
    is not defined. Small grids show the score in each cell. Hovering gives score, standard error and chance level, where the
    detector has them, and the share of samples above the threshold.
    """
    grid = scores.grid(detector)
    layers, heads = grid.shape
    numbers = np.unique(scores.of(detector)["layer"]).tolist()
    columns = [scores.grid(detector, name) for name in ("stderr", "chance", "threshold", "share_above", "samples")]
    names = np.array([[head_name(layer, head) for head in range(heads)] for layer in numbers])
    low, high = scores.range(detector)
    is_signed = low < 0 < high
    error, chance = (not np.isnan(column).all() for column in columns[:2])
    cell = max(6, min(LARGEST_CELL, MOST_PIXELS // max(layers, heads)))
    figure = go.Figure(
        go.Heatmap(
            z=grid,
            customdata=np.dstack([names, *columns]),
            zmin=low,
            zmax=high,
            colorscale="RdBu_r" if is_signed else "Viridis",
            colorbar={
                "title": {"text": "score"},
                "thickness": 12,
                "len": 1.0,
                "tickvals": np.linspace(low, high, 5).tolist(),
            },
            hovertemplate=(
                f"<b>%{{customdata[0]}}</b><br>score %{{z:.3f}}{' ± %{customdata[1]:.3f}' * error}"
                f"{'<br>chance %{customdata[2]:.3f}' * chance}"
                "<br>threshold %{customdata[3]}<br>%{customdata[4]:.0%} of %{customdata[5]} samples above<extra></extra>"
            ),
            hoverongaps=False,
            texttemplate="%{z:.2f}" if cell >= NUMBERED_CELL else None,
            textfont={"size": 12},
            xgap=1,
            ygap=1,
        )
    )
    above = scores.grid(detector, "is_above").astype(bool)
    layer, head = np.nonzero(above)
    # White would vanish on the bright end of the scale, and in the middle of one with two signs.
    is_dark = (grid[layer, head] - low) / (high - low) < 0.7
    colours = np.where(is_dark & (not is_signed), "#ffffff", "#111111")
    frame = {"symbol": "square-open", "size": max(4, cell - 7), "color": colours, "line": {"width": 2}}
    figure.add_scatter(x=head, y=layer, mode="markers", marker=frame, hoverinfo="skip", showlegend=False)
    step = max(1, 24 // cell)
    axis = {"dtick": step, "showgrid": False, "zeroline": False}
    shown = range(0, layers, step)
    # The layers of a hybrid that attend are numbered with gaps.
    named = {"tickvals": list(shown), "ticktext": [str(numbers[at]) for at in shown]}
    figure.update_layout(
        xaxis={"title": "head", "range": [-0.5, heads - 0.5], **axis},
        yaxis={"title": "layer", "range": [layers - 0.5, -0.5], **axis, **named},
        width=max(220, heads * cell) + MARGIN["l"] + MARGIN["r"],
        height=max(120, layers * cell) + MARGIN["t"] + MARGIN["b"],
        margin=MARGIN,
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#8a929e", "activecolor": "#1c2330"},
        plot_bgcolor="#c9c9c9",
        paper_bgcolor="rgba(0,0,0,0)",
    )
    return figure


def score_distribution(scores: HeadScores, detector: str) -> go.Figure:
    """How the heads' scores of one detector are spread.

    Marks: a bar counts the heads whose score lies in that range, of 40 equal ones over the detector's fixed range. The solid line
    is the threshold, the dashed one the chance level (the mean over layers), where the detector has one.
    """
    rows = scores.of(detector)
    low, high = scores.range(detector)
    counts, edges = np.histogram(rows["score"].dropna().clip(low, high), bins=40, range=(low, high))
    figure = go.Figure(
        go.Bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=counts,
            width=edges[1] - edges[0],
            marker={"color": "#3b5b92"},
            customdata=np.column_stack([edges[:-1], edges[1:]]),
            hovertemplate="%{y} heads from %{customdata[0]:.3f} to %{customdata[1]:.3f}<extra></extra>",
        )
    )
    figure.add_vline(
        x=float(rows["threshold"].iloc[0]), line={"color": "#c2571a", "width": 2}, annotation_text="threshold"
    )
    chance = rows["chance"].mean()
    if not np.isnan(chance):
        figure.add_vline(x=float(chance), line={"color": "#888888", "dash": "dash"})
    return figure.update_layout(
        template="plotly_white",
        xaxis={"title": "score", "range": [low, high]},
        yaxis={"title": "heads"},
        bargap=0,
        showlegend=False,
        height=220,
        margin={"l": 50, "r": 20, "t": 24, "b": 44},
    )


def value_grid(
    values: np.ndarray,
    layers: Sequence[int | str],
    columns: list[np.ndarray],
    hover: str,
    ends: tuple[float, float],
    colours: str,
    name: str = "score",
) -> go.Figure:
    """Any number of each head: a row a layer (0 at the top), a column a query head.

    values [layers, heads]; columns: further arrays of that shape, which ``hover`` names as customdata from 1 on (0 is the head's
    name); ends: what the colours run between; name: of the colour bar. Grey is not defined. Small grids show the number.
    """
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
            colorbar={"title": {"text": name}, "thickness": 12, "len": 1.0},
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
