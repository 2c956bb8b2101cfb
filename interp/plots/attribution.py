"""What heads add to logits: a grid of heads, bars of all parts, and the tokens that one head moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from interp.naming import head_name
from interp.plots.heads import LARGEST_CELL, MARGIN, MOST_PIXELS, NUMBERED_CELL
from interp.plots.labels import token_label

if TYPE_CHECKING:
    from interp.heads.head_tokens import HeadTokens
    from interp.heads.logit_attribution_result import LogitAttribution

COLOURS = {"heads": "#3b6fb6", "MLP": "#d98032", "bias": "#8a929e", "embedding": "#4d9a63"}
UP, DOWN = "#b2182b", "#2166ac"
PLAIN: dict[str, Any] = {"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)"}
GRID = {"gridcolor": "#e3e6ea", "zerolinecolor": "#8a929e"}


def attribution_grid(result: LogitAttribution) -> go.Figure:
    """What each head adds to the logit, in the mean over the positions: a row a layer (0 at the top), a column a query head.

    Marks: red raises the logit, blue lowers it, white is 0; the scale ends at the largest absolute value. Grey: the layer has
    no such head. Small grids show the number in each cell. Hovering gives the standard error over the positions, where there
    are several.
    """
    mean, stderr = result.mean(), result.stderr()
    layers, heads = mean.shape
    names = np.array([[head_name(layer, head) for head in range(heads)] for layer in result.layers])
    largest = float(np.nanmax(np.abs(mean))) or 1.0
    cell = max(6, min(LARGEST_CELL, MOST_PIXELS // max(layers, heads)))
    spread = " ± %{customdata[1]:.3f}" if len(result.logits) > 1 else ""
    figure = go.Figure(
        go.Heatmap(
            z=mean,
            customdata=np.dstack([names, stderr.astype(object)]),
            zmin=-largest,
            zmax=largest,
            colorscale="RdBu_r",
            colorbar={"title": {"text": "logit"}, "thickness": 12, "len": 1.0},
            hovertemplate=f"<b>%{{customdata[0]}}</b><br>%{{z:+.3f}}{spread}<extra></extra>",
            hoverongaps=False,
            texttemplate="%{z:.2f}" if cell >= NUMBERED_CELL else None,
            textfont={"size": 12},
            xgap=1,
            ygap=1,
        )
    )
    step = max(1, 24 // cell)
    shown = list(range(0, layers, step))
    figure.update_layout(
        title={"text": _title(result), "font": {"size": 13}},
        xaxis={"title": "head", "range": [-0.5, heads - 0.5], "dtick": step, "showgrid": False, "zeroline": False},
        yaxis={
            "title": "layer",
            "range": [layers - 0.5, -0.5],
            "tickvals": shown,
            "ticktext": [str(result.layers[at]) for at in shown],
            "showgrid": False,
            "zeroline": False,
        },
        width=max(360, heads * cell) + MARGIN["l"] + MARGIN["r"],
        height=max(120, layers * cell) + MARGIN["t"] + MARGIN["b"] + 20,
        margin={**MARGIN, "t": MARGIN["t"] + 20},
        plot_bgcolor="#c9c9c9",
        paper_bgcolor="rgba(0,0,0,0)",
    )
    return figure


def parts_bars(result: LogitAttribution) -> go.Figure:
    """All parts of the logit, in the mean over the positions, from the embedding to the last layer.

    Marks: a bar a part; the heads of a layer are one bar, which hovering takes apart. Colours tell heads, MLPs, biases and the
    embedding. The bars add up to the logit, which the title gives.
    """
    mean = result.mean()
    bars: list[tuple[str, str, float, str]] = []
    others = dict(zip(result.parts, result.others.mean(axis=0).tolist(), strict=True))
    for part, value in others.items():
        kind = part.split(" ")[0]
        bars.append(("MLP" if kind == "mlp" else kind, part, value, ""))
    for layer, row in zip(result.layers, mean, strict=True):
        each = "<br>".join(f"{head_name(layer, h)} {x:+.3f}" for h, x in enumerate(row) if not np.isnan(x))
        bars.append(("heads", f"heads {layer}", float(np.nansum(row)), each))
    bars.sort(key=_place)
    figure = go.Figure()
    for kind, colour in COLOURS.items():
        of_kind = [(at, bar) for at, bar in enumerate(bars) if bar[0] == kind]
        if of_kind:
            figure.add_bar(
                x=[at for at, _ in of_kind],
                y=[bar[2] for _, bar in of_kind],
                customdata=[[bar[1], bar[3]] for _, bar in of_kind],
                hovertemplate="<b>%{customdata[0]}</b> %{y:+.3f}<br>%{customdata[1]}<extra></extra>",
                name=kind,
                marker={"color": colour},
            )
    figure.update_layout(
        title={"text": _title(result), "font": {"size": 13}},
        xaxis={"tickvals": list(range(len(bars))), "ticktext": [bar[1] for bar in bars], "tickangle": -60},
        yaxis={"title": "part of the logit", **GRID},
        width=max(460, 26 * len(bars) + 200),
        height=380,
        margin={"l": 60, "r": 20, "t": 50, "b": 90},
        **PLAIN,
    )
    return figure


def token_bars(result: HeadTokens) -> go.Figure:
    """The tokens that a head moves most at one position: a bar a token, the most promoted at the top.

    Marks: length is what the head adds to the token's logit above what it adds to all tokens in the mean; red raises, blue
        lowers.
    """
    table = result.table
    up, down = (table[table["sign"] == sign] for sign in ("promoted", "suppressed"))
    values = [*up["above_mean"].tolist(), *down["above_mean"].tolist()[::-1]]
    tokens = [*up["token"].tolist(), *down["token"].tolist()[::-1]]
    figure = go.Figure(
        go.Bar(
            x=values,
            y=list(range(len(values))),
            orientation="h",
            marker={"color": [UP if value > 0 else DOWN for value in values]},
            hovertemplate="%{x:+.3f}<extra></extra>",
        )
    )
    figure.update_layout(
        title={
            "text": f"{result.head} at position {result.position}, {token_label(result.token)}",
            "font": {"size": 13},
        },
        xaxis={"title": "added to the logit, above the mean token", **GRID},
        yaxis={
            "tickvals": list(range(len(values))),
            "ticktext": [token_label(token) for token in tokens],
            "range": [len(values) - 0.5, -0.5],
        },
        width=460,
        height=18 * len(values) + 110,
        margin={"l": 110, "r": 20, "t": 50, "b": 50},
        **PLAIN,
    )
    return figure


def _title(result: LogitAttribution) -> str:
    value = f"{result.logits.mean():.2f}"
    n = len(result.logits)
    if n > 1:
        return f"mean of {n} logit{' difference' if result.against[0] >= 0 else ''}s: {value}"
    against = f" less {token_label(result.againsts[0])}" if result.against[0] >= 0 else ""
    return f"logit of {token_label(result.targets[0])}{against} at position {result.position[0]}: {value}"


def _place(bar: tuple[str, str, float, str]) -> tuple[float, int, str]:
    """The embedding first, then each layer's heads, MLP and bias; constants after the layers last."""
    kind, part = bar[:2]
    layer = part.partition(" ")[2].rpartition(".")[2]
    number = -1.0 if kind == "embedding" else float(layer) if layer else float("inf")
    return number, ("embedding", "heads", "MLP", "bias").index(kind), part
