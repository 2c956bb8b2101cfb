"""Surface statistics: every head as a dot over its layer, and how far heads look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.errors import InputError
from interp.naming import head_name
from interp.plots.heads import value_grid

if TYPE_CHECKING:
    from interp.heads.surface import SurfaceStatistics

COLUMNS = 3
PANEL = (270, 210)
SHOWN = 4
"""Heads whose profile is drawn where none is named."""


def surface_panels(result: SurfaceStatistics, statistics: Sequence[str]) -> go.Figure:
    """A panel for each statistic.

    Marks: a dot is a head, over its layer (0 on the left; spread a little sideways by head number, so that equal values show);
    its bar is one standard error of the mean over sequences, none with a single one. The dashed line is chance, what uniform
    attention over the visible keys gives in that layer. Hovering names the head.
    """
    frames = [result.of(statistic) for statistic in statistics]
    rows = math.ceil(len(frames) / COLUMNS)
    titles = [
        f"{escape(name, quote=False)}, {frame['unit'].iloc[0]}" for name, frame in zip(statistics, frames, strict=True)
    ]
    figure = make_subplots(
        rows=rows, cols=min(COLUMNS, len(frames)), subplot_titles=titles, vertical_spacing=0.4 / rows
    )
    place = {layer: number for number, layer in enumerate(result.layers)}
    for number, frame in enumerate(frames):
        at = {"row": number // COLUMNS + 1, "col": number % COLUMNS + 1}
        heads = int(frame["head"].max()) + 1
        x = np.array([place[str(layer)] for layer in frame["layer"]], dtype=float)
        chance = frame.assign(place=x).drop_duplicates("layer").sort_values("place")
        figure.add_scatter(
            x=chance["place"],
            y=chance["chance"],
            mode="lines",
            line={"dash": "dash", "color": "#888888"},
            hovertemplate="chance %{y:.3g}<extra></extra>",
            **at,
        )
        figure.add_scatter(
            x=x + (frame["head"] - (heads - 1) / 2) * 0.5 / heads,
            y=frame["value"],
            error_y={"array": frame["stderr"].fillna(0), "thickness": 1, "width": 0},
            mode="markers",
            marker={"size": 6, "color": "#3b5b92"},
            text=[head_name(layer, int(head)) for layer, head in zip(frame["layer"], frame["head"], strict=True)],
            hovertemplate="<b>%{text}</b> %{y:.3g}<extra></extra>",
            **at,
        )
    figure.update_xaxes(tickvals=list(place.values()), ticktext=list(place), title="layer", showgrid=False)
    figure.update_yaxes(rangemode="tozero")
    figure.update_layout(
        template="plotly_white",
        showlegend=False,
        width=PANEL[0] * min(COLUMNS, len(frames)) + 60,
        height=PANEL[1] * rows + 60,
        margin={"l": 50, "r": 20, "t": 40, "b": 50},
    )
    return figure


def statistic_grid(result: SurfaceStatistics, statistic: str) -> go.Figure:
    """One statistic of every head: a row a layer (0 at the top), a column a query head.

    Marks: colour is the statistic; shares of the attention run from 0 to 1 whatever the model, entropy and distance from 0 to the
    largest that is seen. Grey is not defined. Hovering gives standard error and chance.
    """
    rows = result.of(statistic)
    place = {layer: number for number, layer in enumerate(result.layers)}
    at = rows["layer"].astype(str).map(place).to_numpy(), rows["head"].to_numpy()
    shape = len(place), int(rows["head"].max()) + 1
    values, stderr, chance = (np.full(shape, np.nan) for _ in range(3))
    for grid, column in ((values, "value"), (stderr, "stderr"), (chance, "chance")):
        grid[at] = rows[column].to_numpy()
    unit = rows["unit"].iloc[0]
    high = 1.0 if unit == "mass" else float(np.nanmax(values)) or 1.0
    hover = (
        f"<b>%{{customdata[0]}}</b><br>{escape(statistic)} %{{z:.3f}} ± %{{customdata[1]:.3f}} {unit}"
        "<br>chance %{customdata[2]:.3f}<extra></extra>"
    )
    return value_grid(values, result.layers, [stderr, chance], hover, (0.0, high), "Viridis", unit)


def distance_profiles(result: SurfaceStatistics, heads: Sequence[str]) -> go.Figure:
    """Mass by distance, in bins that double in width.

    Marks: a line a head, a dot for each bin at its left edge; dashed the mass that uniform attention puts there, in the first
    layer shown. A head is named as "L5H1".
    """
    layers, count, _ = result.profile.shape
    names = {head_name(result.layers[layer], head): (layer, head) for layer in range(layers) for head in range(count)}
    far = result.of("distance").head(SHOWN)
    farthest = [head_name(layer, int(head)) for layer, head in zip(far["layer"], far["head"], strict=True)]
    chosen = list(heads) or farthest
    unknown = [head for head in chosen if not isinstance(head, str) or head not in names]
    if unknown:
        raise InputError(f"heads: {unknown[0]!r} is not among those measured, written as {next(iter(names))!r}")
    edges = result.edges
    bins = [_bin(low, high) for low, high in pairwise(edges)]
    figure = go.Figure()
    for head in chosen:
        layer, number = names[head]
        figure.add_scatter(x=list(range(len(bins))), y=result.profile[layer, number], name=head, mode="lines+markers")
    uniform = result.uniform[names[chosen[0]][0]]
    dashed = {"dash": "dash", "color": "#888888"}
    figure.add_scatter(x=list(range(len(bins))), y=uniform, name="uniform", mode="lines", line=dashed)
    figure.update_xaxes(tickvals=list(range(len(bins))), ticktext=bins, title="distance, tokens")
    figure.update_yaxes(title="mass", rangemode="tozero")
    return figure.update_layout(template="plotly_white", width=760, height=380, margin={"t": 20})


def _bin(low: int, high: int) -> str:
    if high < 0:
        return f"{low}+"
    return str(low) if high == low + 1 else f"{low}-{high - 1}"
