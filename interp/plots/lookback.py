"""Lookback ratios over the tokens of a response, and what a detector makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from interp.errors import InputError
from interp.naming import head_name
from interp.plots.labels import token_label

if TYPE_CHECKING:
    from interp.heads.lookback_detector import LookbackDetector
    from interp.heads.lookback_ratios import LookbackRatios

MOST_TOKENS = 200
"""New tokens that are written below the axis; of more the axis counts."""


def ratios_by_token(result: LookbackRatios, sequence: int) -> go.Figure:
    """Heads over the new tokens of one response.

    Marks: a row is a head, a column a new token, left to right. Colour is the ratio: red looks back at the context, blue at what
    the model itself has written, white (0.5) is uniform attention; grey is undefined, as at the first token.
    """
    if type(sequence) is not int or not -len(result.tokens) <= sequence < len(result.tokens):
        raise InputError(f"sequence {sequence!r} does not exist: there are {len(result.tokens)}")
    tokens = [token_label(token) for token in result.tokens[sequence]]
    ratios = result.ratios[sequence][:, :, : len(tokens)]
    layers, heads, count = ratios.shape
    names = [head_name(result.layers[layer], head) for layer in range(layers) for head in range(heads)]
    figure = go.Figure(
        go.Heatmap(
            z=ratios.reshape(layers * heads, count),
            zmin=0.0,
            zmax=1.0,
            colorscale="RdBu_r",
            colorbar={"title": {"text": "ratio"}, "thickness": 12},
            customdata=np.broadcast_to(np.array(tokens, dtype=object), (layers * heads, count)),
            text=np.broadcast_to(np.array(names, dtype=object)[:, None], (layers * heads, count)),
            hovertemplate="%{text}, new token %{x} “%{customdata}”<br>ratio %{z:.3f}<extra></extra>",
            hoverongaps=False,
        )
    )
    ticks = {"tickvals": list(range(count)), "ticktext": tokens} if count <= MOST_TOKENS else {}
    return figure.update_layout(
        xaxis={"title": "new token", "tickangle": -60, "showgrid": False, "zeroline": False, **ticks},
        yaxis={
            "tickvals": list(range(layers * heads)),
            "ticktext": names,
            "autorange": "reversed",
            "showgrid": False,
        },
        plot_bgcolor="#c9c9c9",
        width=max(420, min(1600, 18 * count + 180)),
        height=max(240, 14 * layers * heads + 140),
        margin={"l": 70, "r": 20, "t": 20, "b": 90},
    )


def coefficients(result: LookbackDetector) -> go.Figure:
    """Layer x head grid of a detector's coefficients.

    Marks: red speaks for a window that the context bears out, when that head looks back more; blue against it.
    """
    size = float(np.abs(result.coefficients).max()) or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=result.coefficients,
            zmin=-size,
            zmax=size,
            colorscale="RdBu_r",
            colorbar={"title": {"text": "coefficient"}, "thickness": 12},
            hovertemplate="layer %{y}, head %{x}<br>%{z:+.3f}<extra></extra>",
            texttemplate="%{z:.1f}",
            xgap=1,
            ygap=1,
        )
    )
    layers, heads = result.coefficients.shape
    return figure.update_layout(
        xaxis={"title": "head", "tickvals": list(range(heads)), "showgrid": False},
        yaxis={
            "title": "layer",
            "tickvals": list(range(layers)),
            "ticktext": list(result.layers),
            "autorange": "reversed",
            "showgrid": False,
        },
        width=max(320, 52 * heads + 160),
        height=max(220, 52 * layers + 80),
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
    )
