"""A needle trial token by token: a grid for each head, the needle's tokens across, the generated ones down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.plots.labels import token_label

if TYPE_CHECKING:
    from interp.heads.replay import Replay

PER_ROW = 2
CELL, LEAST_CELL, GRID = 22, 7, 380
LABELS, ABOVE, BESIDE = 96, 30, 76
"""Pixels for the labels under a grid, for its title, and for the labels to its left."""
MARGIN = {"l": 76, "r": 80, "t": 30, "b": 96}
FRAME = "#c2410c"


def replay_figure(result: Replay) -> go.Figure:
    """For each head a grid: a row a generated token, in order, a column a token of the needle, those of the answer in bold.

    Marks: colour is the weight that the head gave to this token in the row that produced the generated one, white 0, blue 1.
    The last column, "elsewhere", is all that it gave to other tokens, or to a sink logit. An orange frame: the head's largest
    weight lies here, on a token of the answer, and it is the token that was generated. The title counts these.
    """
    steps, heads, size = result.on_needle.shape
    columns = min(PER_ROW, heads)
    rows = -(-heads // columns)
    cell = max(LEAST_CELL, min(CELL, GRID // (size + 1)))
    wide, high = cell * (size + 1), max(40, CELL * steps)
    width, height = columns * wide + (columns - 1) * BESIDE, rows * high + (rows - 1) * (LABELS + ABOVE)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        horizontal_spacing=BESIDE / width,
        vertical_spacing=(LABELS + ABOVE) / height if rows > 1 else 0.0,
        subplot_titles=[
            f"{name}: copied {int(count)} of {steps}"
            for name, count in zip(result.heads, result.copied.sum(axis=0), strict=True)
        ],
    )
    needle = [token_label(result.prompt[j]) for j in result.statement]
    across = [f"<b>{t}</b>" if j in result.answer else t for t, j in zip(needle, result.statement, strict=True)]
    down = [token_label(token) for token in result.new]
    for number in range(heads):
        row, column = divmod(number, columns)
        place: Any = {"row": row + 1, "col": column + 1}
        figure.add_trace(_grid(result, number, needle, down), **place)
        copied = np.flatnonzero(result.copied[:, number])
        frame = {"symbol": "square-open", "size": cell - 3, "color": FRAME, "line": {"width": 2}}
        at = [result.statement.index(int(j)) for j in result.position[copied, number, 0]]
        figure.add_scatter(
            x=at, y=copied, mode="markers", marker=frame, hoverinfo="skip", showlegend=False, cliponaxis=False, **place
        )
        axis = {"showgrid": False, "zeroline": False, "tickfont": {"size": 11}}
        figure.update_xaxes(
            tickvals=[*_some(size, cell), size],
            ticktext=[*(across[n] for n in _some(size, cell)), "elsewhere"],
            tickangle=-90,
            range=[-0.5, size + 0.5],
            **axis,
            **place,
        )
        figure.update_yaxes(
            tickvals=list(range(steps)), ticktext=down, range=[steps - 0.5, -0.5], title=None, **axis, **place
        )
    figure.update_layout(
        width=width + MARGIN["l"] + MARGIN["r"],
        height=height + MARGIN["t"] + MARGIN["b"],
        margin=MARGIN,
        coloraxis={
            "colorscale": "Blues",
            "cmin": 0,
            "cmax": 1,
            "colorbar": {
                "title": {"text": "weight"},
                "thickness": 12,
                "len": min(1.0, 220 / height),
                "y": 1,
                "yanchor": "top",
            },
        },
        plot_bgcolor="#c9c9c9",
        paper_bgcolor="rgba(0,0,0,0)",
    )
    return figure


def _grid(result: Replay, head: int, needle: list[str], new: list[str]) -> go.Heatmap:
    weights = result.on_needle[:, head]
    # Rounding may leave a sum just above 1.
    z = np.column_stack([weights, np.maximum(0.0, 1.0 - weights.sum(axis=1))])
    keys = [f"{token} at {j:,}" for token, j in zip(needle, result.statement, strict=True)] + ["elsewhere"]
    told = [[f"{result.heads[head]} before it wrote {token}<br>looks at {key}" for key in keys] for token in new]
    return go.Heatmap(
        z=z,
        customdata=told,
        coloraxis="coloraxis",
        hovertemplate="%{customdata}: %{z:.3f}<extra></extra>",
        xgap=1,
        ygap=1,
    )


def _some(count: int, cell: int) -> list[int]:
    """Places with a label: all, or every so many where they would touch."""
    return list(range(0, count, -(-12 // cell)))
