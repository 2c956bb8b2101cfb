"""Attention by lag around the earlier copy: a line for each head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from interp.naming import head_name

if TYPE_CHECKING:
    from interp.heads.lag_curve import LagCurve

NAMED = 6
COLOURS = ("#2563a8", "#c2410c", "#15803d", "#7e22ce", "#b91c1c", "#0e7490")
OTHERS, CHANCE = "#b9bec7", "#111111"


def lag_figure(result: LagCurve) -> go.Figure:
    """Lag on the horizontal axis (0: the earlier copy, +1: what followed it), mean attention on the vertical one.

    The six heads whose curve reaches highest are coloured and named, with whiskers of two standard errors; the others are
    grey. The dotted line is uniform attention, mean over layers. A lag that no query has is missing.
    """
    layers, heads, _ = result.curve.shape
    flat = result.curve.reshape(layers * heads, -1)
    top = np.argsort(-np.nan_to_num(flat, nan=-1).max(-1), kind="stable")
    figure = go.Figure()
    for place in [*top[: NAMED - 1 : -1], *top[:NAMED]]:
        rank = int(np.nonzero(top == place)[0][0])
        is_named = rank < NAMED
        layer, head = divmod(int(place), heads)
        name = head_name(result.layers[layer], head)
        error = 2 * result.stderr[layer, head]
        figure.add_scatter(
            x=result.lags,
            y=flat[place],
            mode="lines+markers" if is_named else "lines",
            name=name,
            line={"color": COLOURS[rank] if is_named else OTHERS, "width": 2 if is_named else 1},
            error_y={"array": np.nan_to_num(error), "thickness": 1, "width": 0} if is_named else None,
            showlegend=is_named,
            hovertemplate=f"<b>{name}</b><br>lag %{{x}}: %{{y:.3f}}<extra></extra>",
        )
    figure.add_scatter(
        x=result.lags,
        y=result.chance.mean(0),
        mode="lines",
        name="chance",
        line={"color": CHANCE, "dash": "dot"},
        hovertemplate="uniform attention<br>lag %{x}: %{y:.3f}<extra></extra>",
    )
    figure.update_layout(
        xaxis={"title": "lag from the earlier copy of the token", "tickvals": list(result.lags), "zeroline": True},
        yaxis={"title": "mean attention", "rangemode": "tozero"},
        width=760,
        height=420,
        margin={"l": 64, "r": 20, "t": 24, "b": 56},
        plot_bgcolor="#f3f3f3",
        paper_bgcolor="rgba(0,0,0,0)",
    )
    return figure
