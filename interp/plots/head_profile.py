"""One head by distance and by position: curves that hold few points however long the text is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.plots.curves import CHANCE, Curve, add_curve
from interp.plots.labels import position_ticks
from interp.plots.themes import Theme, dress, theme

if TYPE_CHECKING:
    from interp.views.head_profile import HeadProfile

WIDTH, HEIGHT = 620, 320
MARGIN = {"l": 62, "r": 24, "t": 60, "b": 48}
NO_DISTANCE = "queries and keys are of two inputs:<br>no distance between them"


def distance_figure(profile: HeadProfile, *, dark: bool = False) -> go.Figure:
    """Share of attention by distance between query and key, in tokens, mean over the queries.

    Marks: a bar a range of distances, each twice as wide as the one before, since most that happens is near; the dotted line
    is what uniform attention over the visible keys would have there. Hovering gives the range and both shares. Cross attention
    has no distances, which a line of text says.
    """
    figure = go.Figure()
    _add_distance(figure, profile, theme(dark))
    figure.update_xaxes(_distance_axis(profile))
    figure.update_yaxes(title_text="share of attention", rangemode="tozero")
    return _dressed(figure, profile, "attention by distance", dark)


def entropy_figure(profile: HeadProfile, *, dark: bool = False) -> go.Figure:
    """Entropy of each query's attention, in nats: 0 where one key has it all.

    Marks: the line is the entropy; of more than 240 queries, of runs of equal length, its mean, with a band from the least to
    the largest. The dotted line is ln of the number of visible keys, which uniform attention has and nothing exceeds.
    """
    figure = go.Figure()
    add_curve(figure, _of_entropy(profile), theme(dark))
    figure.update_xaxes(title_text="query position", **position_ticks(len(profile.entropy)))
    figure.update_yaxes(title_text="entropy (nats)", rangemode="tozero")
    return _dressed(figure, profile, "entropy by position", dark)


def received_figure(profile: HeadProfile, *, dark: bool = False) -> go.Figure:
    """Mean weight that each key gets from the queries that see it, on a logarithmic axis: sinks stand out by orders of magnitude.

    Marks: the line is the weight; of more than 240 keys, of runs of equal length, its mean, with a band from the least to the
    largest, so that a single key that receives much is seen. The dotted line is chance. Weights below 1e-8 are drawn there.
    """
    figure = go.Figure()
    add_curve(figure, _of_received(profile), theme(dark))
    figure.update_xaxes(title_text="key position", **position_ticks(len(profile.received)))
    figure.update_yaxes(title_text="mean weight received", type="log", dtick=1, exponentformat="power")
    return _dressed(figure, profile, "attention received by position", dark)


def profile_figure(profile: HeadProfile, *, dark: bool = False) -> go.Figure:
    """Three panels: ``distance_figure``, ``entropy_figure`` and ``received_figure``, with their marks."""
    of = theme(dark)
    titles = ["by distance", "entropy by position", "received by position"]
    figure = make_subplots(rows=1, cols=3, subplot_titles=titles, horizontal_spacing=0.085)
    _add_distance(figure, profile, of, row=1, col=1)
    add_curve(figure, _of_entropy(profile), of, row=1, col=2)
    add_curve(figure, _of_received(profile), of, row=1, col=3)
    figure = _dressed(figure, profile, profile.name, dark)
    figure.update_layout(width=1180, height=HEIGHT + 40, margin=MARGIN | {"t": 96}, legend={"y": 1.14})
    figure.update_xaxes(_distance_axis(profile), row=1, col=1)
    figure.update_xaxes(title_text="query position", **position_ticks(len(profile.entropy)), row=1, col=2)
    figure.update_xaxes(title_text="key position", **position_ticks(len(profile.received)), row=1, col=3)
    figure.update_yaxes(title_text="share of attention", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text="nats", rangemode="tozero", row=1, col=2)
    figure.update_yaxes(title_text="mean weight", type="log", dtick=1, exponentformat="power", row=1, col=3)
    return figure


def _of_entropy(profile: HeadProfile) -> Curve:
    return Curve(
        profile.first_query, profile.entropy, profile.entropy_chance, profile.queries, "query", "entropy (nats)"
    )


def _of_received(profile: HeadProfile) -> Curve:
    return Curve(0, profile.received, profile.received_chance, profile.keys, "key", "mean weight received", 1e-8)


def _add_distance(figure: go.Figure, profile: HeadProfile, of: Theme, **at: int) -> None:
    if not profile.has_distance:
        figure.add_annotation(
            text=NO_DISTANCE,
            showarrow=False,
            font={"color": of.faint},
            x=0.5,
            y=0.5,
            xref="x domain",
            yref="y domain",
        )
    places, names = list(range(len(profile.distance))), _ranges(profile)
    figure.add_bar(
        x=places,
        y=profile.distance.astype(np.float32),
        customdata=np.array(names, dtype=object),
        marker={"color": of.lines[0], "line": {"width": 0}},
        name="share of attention",
        hovertemplate="distance %{customdata}<br>%{y:.3f} of the attention<extra></extra>",
        showlegend=False,
        **at,
    )
    figure.add_scatter(
        x=places,
        y=profile.distance_chance.astype(np.float32),
        customdata=np.array(names, dtype=object),
        mode="lines+markers",
        line={"color": of.lines[2], "dash": "dot", "width": 1.5},
        marker={"size": 4},
        name=CHANCE,
        hovertemplate="distance %{customdata}<br>chance %{y:.3f}<extra></extra>",
        **at,
    )


def _ranges(profile: HeadProfile) -> list[str]:
    """ "0", "1", "2 to 3", "4 to 7", ..."""
    pairs = zip(profile.edges[:-1].tolist(), profile.edges[1:].tolist(), strict=True)
    return [f"{near:,}" if far == near + 1 else f"{near:,} to {far - 1:,}" for near, far in pairs]


def _distance_axis(profile: HeadProfile) -> dict[str, Any]:
    near = profile.edges[:-1].tolist()
    # Labels of every bin would overlap: those of every second or third are enough, since they double.
    step = -(-len(near) // 9)
    shown = list(range(0, len(near), step))
    texts = [f"{near[n]:,}" if near[n] < 2 or step > 1 else f"{near[n]:,}+" for n in shown]
    return {"title": {"text": "distance in tokens, from … on"}, "tickvals": shown, "ticktext": texts, "tickangle": 0}


def _dressed(figure: go.Figure, profile: HeadProfile, heading: str, dark: bool) -> go.Figure:
    of = theme(dark)
    queries = f"{int((~np.isnan(profile.entropy)).sum()):,} queries"
    named = queries if heading == profile.name else f"{profile.name}, {queries}"
    figure = dress(
        figure,
        dark,
        title={
            "text": heading,
            "font": {"size": 15},
            "x": 0.01,
            "subtitle": {"text": named, "font": {"size": 12, "color": of.faint}},
        },
        legend={
            "orientation": "h",
            "x": 1,
            "xanchor": "right",
            "y": 1.02,
            "yanchor": "bottom",
            "bgcolor": "rgba(0,0,0,0)",
        },
        width=WIDTH,
        height=HEIGHT,
        margin=MARGIN,
        bargap=0.15,
    )
    figure.update_xaxes(title_standoff=8)
    return figure.update_yaxes(title_standoff=6)
