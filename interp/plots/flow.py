"""Weights of outputs on tokens, as rollout and attention flow give them: bars, and levels x tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.plots.labels import token_label

if TYPE_CHECKING:
    from interp.flow.comparison import Comparison
    from interp.flow.token_weights import TokenWeights

MOST_COLUMNS = 256
"""Tokens that are shown one by one; of more, neighbours are summed."""
LEAST_AFTER = 8
"""Tokens after the output that are shown at least, so that it is seen that it draws on none of them."""
MOST_TICKS = 64
"""Tokens whose texts are written below the axis."""
NUMBERED_TICKS = 16
WIDEST, NARROWEST = 1100, 420
BAR = "#2b5c9e"
INK, HIDDEN = "#1c2330", "rgba(128, 136, 148, 0.35)"
MARGIN = {"l": 92, "r": 28, "t": 56, "b": 86}


def level_grid(result: TokenWeights, row: int) -> go.Figure:
    """One output's weights as levels x tokens: the output at the top, the model's input at the bottom.

    Marks: colour is the weight, on a root scale (a quarter of the largest weight is half way up the scale), as a few tokens
    have most of it. The palest colour is a weight of 0, grey a token that the output cannot draw on, as it comes after it; of
    these the first are shown.
    Above ``MOST_COLUMNS`` tokens a column is a run of neighbours, its colour the sum of their weights; the axis says so.
    Hovering gives the exact weight.
    """
    columns = _Columns.of(result, row)
    weights = columns.summed(result.weights[row])
    largest = float(np.nanmax(weights))
    ticks = largest * np.array([0, 1 / 16, 1 / 4, 9 / 16, 1])
    names = [f"into {_layer(level)}" if level != "output" else "output" for level in result.levels]
    cell = _cell(weights.shape[1])
    figure = go.Figure(
        go.Heatmap(
            z=np.sqrt(weights).astype(np.float32),
            customdata=np.dstack(
                [
                    weights.astype(object),
                    np.broadcast_to(np.array(columns.texts, dtype=object), weights.shape),
                    np.broadcast_to(np.array(names, dtype=object)[:, None], weights.shape),
                ]
            ),
            zmin=0,
            zmax=float(np.sqrt(largest)) or 1.0,
            colorscale="Blues",
            colorbar={
                "title": {"text": "weight"},
                "tickvals": np.sqrt(ticks).tolist(),
                "ticktext": [f"{tick:.3g}" for tick in ticks],
                "thickness": 12,
                "len": 1.0,
            },
            hovertemplate="%{customdata[1]}<br>%{customdata[2]}<br>weight %{customdata[0]:.4g}<extra></extra>",
            hoverongaps=False,
        )
    )
    figure.update_layout(
        title={"text": _title(result, row), "font": {"size": 14}, "x": 0.01},
        xaxis=columns.axis(),
        yaxis={
            "tickmode": "array",
            "tickvals": list(range(len(names))),
            "ticktext": [escape(name) for name in names],
            "range": [-0.5, len(names) - 0.5],
            "showgrid": False,
            "zeroline": False,
        },
        width=_width(weights.shape[1], cell) + 60,
        height=max(180, 34 * len(names)) + MARGIN["t"] + MARGIN["b"],
    )
    figure.update_layout(_LOOK | {"plot_bgcolor": HIDDEN})
    return figure


def token_bars(results: Mapping[str, TokenWeights], rows: Sequence[int]) -> go.Figure:
    """The weights of one output on the tokens, a panel for each result: to read one, or to compare several.

    Panels have the tokens in common, and each a scale of its own from 0.

    Marks: a bar's height is the token's weight at the lowest level. Whiskers, where a result has bounds (attention flow), span
    the values that the exact weight can have. A grey band covers tokens that the output cannot draw on, of which the first are
    shown. Above ``MOST_COLUMNS``
    tokens a bar is the sum over a run of neighbours; the axis says so.

    Args:
        results: by the panels' names, all of the same inputs.
        rows: of each result, which of its outputs.
    """
    listed = list(results.items())
    columns = _Columns.of(listed[0][1], rows[0])
    figure = make_subplots(
        rows=len(listed), cols=1, shared_xaxes=True, vertical_spacing=0.05 if len(listed) > 1 else 0.0
    )
    for number, ((name, result), row) in enumerate(zip(listed, rows, strict=True), 1):
        heights = columns.summed(result.weights[row])[0]
        figure.add_bar(
            x=np.arange(len(heights)),
            y=heights,
            customdata=np.array(columns.texts, dtype=object),
            marker={"color": BAR},
            error_y=_whiskers(result, row, columns),
            hovertemplate="%{customdata}<br>" + escape(name) + " %{y:.4g}<extra></extra>",
            showlegend=False,
            row=number,
            col=1,
        )
        figure.update_yaxes(title={"text": escape(name)}, rangemode="tozero", row=number, col=1, gridcolor="#e4e7ec")
        hidden = np.flatnonzero(np.isnan(heights))
        if hidden.size:
            span = {"x0": hidden[0] - 0.5, "x1": hidden[-1] + 0.5}
            figure.add_vrect(**span, fillcolor=HIDDEN, line={"width": 0}, layer="below", row=number, col=1)  # type: ignore[arg-type]
    figure.update_xaxes(showticklabels=False)
    figure.update_xaxes(columns.axis() | {"showticklabels": True}, row=len(listed), col=1)
    figure.update_layout(
        title={"text": _title(listed[0][1], rows[0]), "font": {"size": 14}, "x": 0.01},
        width=_width(len(columns.texts), _cell(len(columns.texts))),
        height=130 * len(listed) + (60 if len(listed) == 1 else 0) + MARGIN["t"] + MARGIN["b"],
        bargap=0.15,
        **_LOOK,
    )
    return figure


def correlation_grid(comparison: Comparison) -> go.Figure:
    """Rank correlations of methods: a row and a column a method, the last the tokens' place in the text.

    Marks: colour and number are the mean over outputs, from -1 (blue) over 0 (white) to 1 (red). Only the lower half is drawn,
    as the upper one says the same; grey is what is not defined. Hovering gives the standard error.
    """
    names = list(comparison.methods)
    frame = comparison.to_frame()
    z, stderr = np.full((len(names), len(names)), np.nan), np.full((len(names), len(names)), np.nan)
    for pair in frame.to_dict("records"):
        at = names.index(pair["second"]), names.index(pair["first"])
        z[at], stderr[at] = pair["correlation"], pair["stderr"]
    z, stderr = z[1:, :-1], stderr[1:, :-1]
    labels = [escape(name) for name in names]
    figure = go.Figure(
        go.Heatmap(
            z=z,
            customdata=stderr,
            zmin=-1,
            zmax=1,
            colorscale="RdBu_r",
            colorbar={"title": {"text": "rank correlation"}, "thickness": 12},
            texttemplate="%{z:.2f}",
            hovertemplate="%{y}, %{x}<br>%{z:.3f} ± %{customdata:.3f}<extra></extra>",
            hoverongaps=False,
            xgap=1,
            ygap=1,
        )
    )
    axis = {"tickmode": "array", "showgrid": False, "zeroline": False}
    size = 90 * (len(names) - 1)
    # Above the diagonal nothing is drawn on white; what is not defined below it stands out on grey.
    for i, j in zip(*np.nonzero(np.isnan(z) & np.tri(*z.shape, dtype=bool)), strict=True):
        figure.add_shape(
            type="rect", x0=j - 0.5, x1=j + 0.5, y0=i - 0.5, y1=i + 0.5, fillcolor=HIDDEN, line={"width": 0}
        )
    figure.update_layout(
        xaxis=axis | {"tickvals": list(range(len(names) - 1)), "ticktext": labels[:-1]},
        yaxis=axis
        | {"tickvals": list(range(len(names) - 1)), "ticktext": labels[1:], "range": [len(names) - 1.5, -0.5]},
        width=size + 300,
        height=max(160, size * 2 // 3) + 110,
    )
    figure.update_layout(_LOOK | {"margin": {"l": 160, "r": 30, "t": 30, "b": 60}})
    return figure


_LOOK: dict[str, Any] = {
    "margin": MARGIN,
    "plot_bgcolor": "#ffffff",
    "paper_bgcolor": "rgba(0,0,0,0)",
    "font": {"color": INK, "size": 12},
    "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#8a929e", "activecolor": INK},
}


@dataclass(frozen=True)
class _Columns:
    """What is shown side by side: tokens, or runs of ``size`` of them.

    count: tokens that are shown, up to some after the output; hidden: tokens from which on the output draws on none (of the
    decoder's, in an encoder-decoder)
    """

    count: int
    size: int
    hidden: int
    texts: list[str]
    labels: list[str]

    @classmethod
    def of(cls, result: TokenWeights, row: int) -> _Columns:
        sequence = int(result.sequence[row])
        tokens = result.tokens[sequence]
        before = result.encoder_tokens[sequence] if result.encoder_tokens else 0
        hidden = before + int(result.position[row]) + 1 if result.is_causal else len(tokens)
        count = min(len(tokens), hidden + max(LEAST_AFTER, hidden // 8))
        size = -(-count // MOST_COLUMNS)
        texts, labels = [], []
        for start in range(0, count, size):
            stop = min(start + size, count)
            own = start - before if start >= before else start
            side = "" if not result.encoder_tokens else "decoder " if start >= before else "encoder "
            if size == 1:
                texts.append(f"{side}token {own}: {token_label(tokens[start], 60)}")
                labels.append(token_label(tokens[start]))
            else:
                texts.append(
                    f"{side}tokens {own} to {own + stop - start - 1}: {token_label(''.join(tokens[start:stop]), 60)}"
                )
                labels.append(str(own))
        return cls(count, size, hidden, texts, labels)

    def summed(self, weights: np.ndarray) -> np.ndarray:
        """weights [levels, T] -> [levels, columns]; NaN where the output cannot draw on any of a column's tokens."""
        own = weights[:, : self.count].astype(np.float64)
        starts = np.arange(0, self.count, self.size)
        sums = np.add.reduceat(own, starts, axis=1)
        sums[:, starts >= self.hidden] = np.nan
        return sums

    def axis(self) -> dict[str, Any]:
        step = -(-len(self.labels) // (MOST_TICKS if self.size == 1 else NUMBERED_TICKS))
        at = list(range(0, len(self.labels), step))
        title = "token" if self.size == 1 else f"token (sums over runs of {self.size})"
        return {
            "title": {"text": title, "standoff": 4},
            "tickmode": "array",
            "tickvals": at,
            "ticktext": [self.labels[i] for i in at],
            "tickangle": -90 if self.size == 1 else 0,
            "range": [-0.5, len(self.labels) - 0.5],
            "showgrid": False,
            "zeroline": False,
        }


def _whiskers(result: TokenWeights, row: int, columns: _Columns) -> dict[str, Any] | None:
    """From a bar's height to the least and the largest weight, where a result has them and they can be seen."""
    low, high = getattr(result, "low", None), getattr(result, "high", None)
    if low is None or high is None or columns.size > 1:
        return None
    middle, bottom, top = (columns.summed(values[row])[0] for values in (result.weights, low, high))
    return {
        "type": "data",
        "symmetric": False,
        "array": np.nan_to_num(top - middle),
        "arrayminus": np.nan_to_num(middle - bottom),
        "thickness": 1,
        "width": 2,
        "color": INK,
    }


def _title(result: TokenWeights, row: int) -> str:
    return (
        f"what the output of token {int(result.position[row])} ({token_label(result.output_token(row), 60)}) draws on"
    )


def _layer(level: str) -> str:
    return f"layer {level}" if level.isdecimal() else level


def _cell(columns: int) -> int:
    return max(2, min(30, (WIDEST - MARGIN["l"] - MARGIN["r"]) // columns))


def _width(columns: int, cell: int) -> int:
    return max(NARROWEST, columns * cell + MARGIN["l"] + MARGIN["r"])
