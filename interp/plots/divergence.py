"""Heads in the plane, near one another where their maps are alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.colors import qualitative

if TYPE_CHECKING:
    from interp.heads.divergence import HeadDivergences

MOST_NAMED = 80
"""Heads whose names are written beside them; of more they are shown by hovering."""


def heads_in_plane(result: HeadDivergences) -> go.Figure:
    """Metric multidimensional scaling of the divergences.

    Marks: a dot is a head; how far two dots are apart is, as well as the plane allows (see the stress in the title), the
    divergence of their maps in nats. Colour is the cluster, which has no order. The axes have no meaning of their own.
    """
    figure = go.Figure()
    nearest = result.to_frame()
    hover = [
        f"<b>{name}</b><br>nearest {other}, {apart:.3f} nats"
        for name, other, apart in zip(result.heads, nearest["nearest"], nearest["divergence"], strict=True)
    ]
    for number in range(int(result.cluster.max()) + 1):
        members = np.flatnonzero(result.cluster == number)
        figure.add_scatter(
            x=result.place[members, 0],
            y=result.place[members, 1],
            mode="markers+text" if len(result.heads) <= MOST_NAMED else "markers",
            text=[result.heads[n] for n in members],
            textposition="top center",
            textfont={"size": 10},
            marker={"size": 9, "color": qualitative.Plotly[number % len(qualitative.Plotly)]},
            hovertext=[hover[n] for n in members],
            hoverinfo="text",
            name=f"cluster {number}",
        )
    axis = {"title": "nats", "zeroline": False}
    return figure.update_layout(
        title={"text": f"{len(result.heads)} heads, stress {result.stress:.2f}", "font": {"size": 13}},
        template="plotly_white",
        xaxis=axis,
        yaxis={**axis, "scaleanchor": "x"},
        width=760,
        height=620,
        margin={"l": 60, "r": 20, "t": 50, "b": 50},
    )
