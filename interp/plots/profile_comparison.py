"""One head on several texts, or several heads on one: by distance and by position, curves over each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from interp.errors import InputError
from interp.plots.labels import position_ticks, token_label
from interp.plots.themes import Theme, dress, theme

if TYPE_CHECKING:
    from interp.views.head_profile import HeadProfile

MOST_POINTS = 240
"""Points of a curve over positions; of more queries, means over runs of equal length."""
MOST_PROFILES = 2
LONGEST_NAME = 40
WIDTH, HEIGHT = 620, 300


def distances_figure(profiles: Mapping[str, HeadProfile], *, dark: bool = False) -> go.Figure:
    """Share of attention by distance, of two profiles.

    Marks: a solid line with dots a profile, in the order blue, orange; a dot is a range of distances, each twice as wide as the
    one before. The dotted line of the same colour is uniform attention over the visible keys, which differs by the length of
    the text. Hovering gives the range and the share.

    Args:
        profiles: by the names that the legend shows.

    Raises:
        InputError: not two profiles, or one of cross attention.
    """
    of = theme(dark)
    figure = go.Figure()
    for name, profile in _checked(profiles).items():
        if not profile.has_distance:
            raise InputError(f"profiles: {name!r} has no distances, since its queries and keys are of two inputs")
    longest = max(_checked(profiles).values(), key=lambda profile: len(profile.distance))
    edges = longest.edges.tolist()
    ranges = [f"{near:,}" if far == near + 1 else f"{near:,} to {far - 1:,}" for near, far in pairwise(edges)]
    for (name, profile), colour in zip(profiles.items(), of.lines, strict=False):
        count = len(profile.distance)
        _add(
            figure,
            name,
            colour,
            range(count),
            profile.distance,
            profile.distance_chance,
            ranges[:count],
            "of the attention",
        )
    step = -(-len(ranges) // 9)
    shown = list(range(0, len(ranges), step))
    figure.update_xaxes(
        title_text="distance in tokens, from … on", tickvals=shown, ticktext=[f"{edges[n]:,}" for n in shown]
    )
    figure.update_yaxes(title_text="share of attention", rangemode="tozero")
    return _dressed(figure, of, dark)


def entropies_figure(profiles: Mapping[str, HeadProfile], *, dark: bool = False) -> go.Figure:
    """Entropy of each query's attention in nats, of two profiles, by position.

    Marks: a solid line a profile, in the order blue, orange; of more than ``MOST_POINTS`` queries a point is the mean over a
    run of neighbours. The dotted line of the same colour is the most there can be, ln of the number of visible keys. Positions
    count each text's own tokens: the same position is another token in another text.

    Raises:
        InputError: not two profiles.
    """
    of = theme(dark)
    figure = go.Figure()
    for (name, profile), colour in zip(_checked(profiles).items(), of.lines, strict=False):
        size = -(-len(profile.entropy) // MOST_POINTS)
        starts = range(0, len(profile.entropy), size)
        places = [start + profile.first_query for start in starts]
        names = [
            f"query {place:,}" if size == 1 else f"queries {place:,} to {min(place + size, len(profile.entropy)) - 1:,}"
            for place in places
        ]
        values, most = (_means(each, size) for each in (profile.entropy, profile.entropy_chance))
        _add(figure, name, colour, places, values, most, names, "nats", mode="lines")
    figure.update_xaxes(
        title_text="query position", **position_ticks(max(len(each.entropy) for each in profiles.values()))
    )
    figure.update_yaxes(title_text="entropy (nats)", rangemode="tozero")
    return _dressed(figure, of, dark)


def _add(
    figure: go.Figure,
    name: str,
    colour: str,
    x: Sequence[int] | range,
    values: np.ndarray,
    chance: np.ndarray,
    texts: Sequence[str],
    unit: str,
    mode: str = "lines+markers",
) -> None:
    label = token_label(name, LONGEST_NAME)
    for number, dash, told in ((values, "solid", ""), (chance, "dot", ", uniform attention")):
        figure.add_scatter(
            x=list(x),
            y=np.asarray(number, dtype=np.float32),
            customdata=np.array(texts, dtype=object),
            mode=mode if dash == "solid" else "lines",
            line={"color": colour, "dash": dash, "width": 2 if dash == "solid" else 1.2},
            name=label + told,
            showlegend=dash == "solid",
            hovertemplate=f"%{{customdata}}<br>{label}{told}: %{{y:.4g}} {unit}<extra></extra>",
        )


def _means(values: np.ndarray, size: int) -> np.ndarray:
    """Means over runs of ``size`` numbers; NaN where a run has none."""
    runs = [values[start : start + size] for start in range(0, len(values), size)]
    return np.array([run[~np.isnan(run)].mean() if (~np.isnan(run)).any() else np.nan for run in runs])


def _checked(profiles: Mapping[str, HeadProfile]) -> Mapping[str, HeadProfile]:
    from interp.views.head_profile import HeadProfile

    if not isinstance(profiles, Mapping) or not all(isinstance(each, HeadProfile) for each in profiles.values()):
        raise InputError(f"profiles: expected head profiles by name, such as {{'L2H5': profile}}, got {profiles!r:.60}")
    if len(profiles) != MOST_PROFILES:
        raise InputError(f"profiles: expected {MOST_PROFILES}, by name, got {len(profiles)}")
    return profiles


def _dressed(figure: go.Figure, of: Theme, dark: bool) -> go.Figure:
    return dress(
        figure,
        dark,
        width=WIDTH,
        height=HEIGHT,
        margin={"l": 64, "r": 16, "t": 44, "b": 52},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"color": of.text}},
    )
