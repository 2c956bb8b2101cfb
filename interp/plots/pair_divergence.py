"""How unlike two maps are, by position."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from interp.plots.curves import Curve, add_curve
from interp.plots.themes import dress, theme

if TYPE_CHECKING:
    from interp.heads.pair_divergence import PairDivergence

WIDTH, HEIGHT = 620, 320


def pair_figure(result: PairDivergence, *, dark: bool = False) -> go.Figure:
    """The Jensen-Shannon divergence of the two maps' rows, by the position of the query.

    Marks: the line is the divergence in nats, from 0 (equal rows) to the axis's upper end, ln 2 = 0.693 (no key in common); of
    more than 240 queries, of runs of equal length, its mean, with a band from the least to the largest. The dashed line is the
    mean over all queries. Hovering gives position, token and number.
    """
    from interp.heads.pair_divergence import MOST

    of = theme(dark)
    figure = go.Figure()
    add_curve(
        figure, Curve(result.first_query, result.by_query, None, result.queries, "query", "divergence (nats)"), of
    )
    figure.add_hline(y=result.divergence, line={"dash": "dash", "width": 1.5, "color": of.lines[1]})
    names = " and ".join(escape(name, quote=False) for name in result.names)
    figure.update_xaxes(title_text="query position", tickformat=",d", title_standoff=8)
    figure.update_yaxes(title_text="divergence (nats)", range=[0, MOST], title_standoff=6)
    return dress(
        figure,
        dark,
        title={
            "text": f"divergence of {names}: {result.divergence:.3f} nats on average",
            "font": {"size": 15},
            "x": 0.01,
        },
        width=WIDTH,
        height=HEIGHT,
        margin={"l": 62, "r": 24, "t": 48, "b": 48},
    )
