"""What ablating the found heads changes, beside what ablating others does."""

from __future__ import annotations

import textwrap
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go

if TYPE_CHECKING:
    from interp.causal.verification import Comparison, Verification

FOUND, OTHERS, NOTHING = "#c1272d", "#6b7b93", "#808894"
"""Colours that are seen on a light page and on a dark one, by 3 : 1 at least."""
TITLE, LETTER, LINE = 14, 7.5, 18
"""Pixels: the title's letters are so high, so wide on average, and its lines so far apart."""
SPREAD = 0.22
"""Half the width over which the dots of one size are laid out."""


def verification_figure(result: Verification) -> go.Figure:
    """The change of the metric, for each number of heads that were ablated together.

    Marks: a red diamond is the found heads, its bar the interval. Each dot is a control set, side by side in order of their
    effect; an open dot holds heads of other layers, for want of enough in the same. The grey square is the controls' mean, with
    its interval. The dashed line at 0 is the model without ablation; its metric stands under the title. Hovering names the heads.
    """
    frame = result.to_frame()
    frame["shown"] = [_wrapped(names) for names in frame["heads"]]
    comparisons = [result.of_size(size) for size in result.sizes]
    figure = go.Figure()
    _add_controls(figure, frame, result)
    _add_mean(figure, comparisons)
    _add_found(figure, frame[frame["condition"] == "found"], comparisons)
    figure.add_hline(y=0, line={"dash": "dash", "width": 1, "color": NOTHING})
    unit = f" ({escape(result.unit, quote=False)})" if result.unit else ""
    worse = "up" if result.worse == "higher" else "down"
    sizes = list(result.sizes)
    width = 320 + 130 * len(sizes)
    title = textwrap.wrap(result.task, int((width - 24) / LETTER)) or [""]
    figure.update_layout(
        title={
            "text": "<br>".join(escape(line, quote=False) for line in title),
            "font": {"size": TITLE},
            "x": 0.02,
            "y": 0.97,
            "yanchor": "top",
            "subtitle": {"text": f"{result.plain:.3g}{unit} before {result.ablation} ablation", "font": {"size": 12}},
        },
        xaxis={
            "title": "heads ablated together",
            "tickvals": list(range(len(sizes))),
            "ticktext": [str(size) for size in sizes],
            "range": [-0.6, len(sizes) - 0.4],
            "showgrid": False,
            "zeroline": False,
        },
        yaxis={"title": f"change{unit}, {worse} is worse", "zeroline": False, "gridcolor": "#e3e6ea"},
        width=width,
        height=440 + LINE * (len(title) - 1),
        margin={"l": 70, "r": 20, "t": 54 + LINE * len(title), "b": 50},
        # Below: beside the plot it would leave room for little else.
        legend={"orientation": "h", "x": 0, "y": -0.18, "yanchor": "top"},
        plot_bgcolor="#ffffff",
        paper_bgcolor="rgba(0,0,0,0)",
    )
    return figure


def _add_controls(figure: go.Figure, frame: pd.DataFrame, result: Verification) -> None:
    for same in (True, False):
        xs, ys, names = [], [], []
        for place, size in enumerate(result.sizes):
            rows = frame[(frame["condition"] == "control") & (frame["size"] == size)].sort_values(
                "effect", kind="stable"
            )
            at = place + (np.linspace(-SPREAD, SPREAD, len(rows)) if len(rows) > 1 else np.zeros(1))
            chosen = ((rows["in_layers"] == size) == same).to_numpy()
            xs.extend(at[chosen])
            ys.extend(rows["effect"][chosen])
            names.extend(rows["shown"][chosen])
        if xs:
            figure.add_scatter(
                x=xs,
                y=ys,
                mode="markers",
                name="control set, same layers" if same else "control set, other layers too",
                marker={
                    "symbol": "circle" if same else "circle-open",
                    "size": 8,
                    "color": OTHERS,
                    "line": {"width": 1.5},
                },
                customdata=names,
                hovertemplate="%{customdata}<br>%{y:+.3g}<extra>control set</extra>",
            )


def _add_mean(figure: go.Figure, comparisons: list[Comparison]) -> None:
    means = np.array([c.control_mean for c in comparisons])
    low, high = np.array([c.control_interval for c in comparisons]).T
    figure.add_scatter(
        x=np.arange(len(comparisons)) + 0.32,
        y=means,
        error_y=_bar(means, low, high),
        mode="markers",
        name="mean of the control sets",
        marker={"symbol": "square", "size": 9, "color": OTHERS},
        customdata=[c.controls for c in comparisons],
        hovertemplate="mean of %{customdata} sets<br>%{y:+.3g}<extra></extra>",
    )


def _add_found(figure: go.Figure, rows: pd.DataFrame, comparisons: list[Comparison]) -> None:
    effects = np.array([c.effect for c in comparisons])
    low, high = np.array([c.interval for c in comparisons]).T
    figure.add_scatter(
        x=np.arange(len(comparisons)) - 0.32,
        y=effects,
        error_y=_bar(effects, low, high),
        mode="markers",
        name="the found heads",
        marker={"symbol": "diamond", "size": 11, "color": FOUND},
        customdata=np.column_stack([rows["shown"], [f"{c.p_value:.3g}" for c in comparisons]]),
        hovertemplate="%{customdata[0]}<br>%{y:+.3g}, p = %{customdata[1]}<extra>found</extra>",
    )


def _bar(mean: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, object]:
    # The mean can lie a rounding outside of its own interval where all resamples are equal.
    up, down = np.maximum(high - mean, 0), np.maximum(mean - low, 0)
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.5, "width": 5}


def _wrapped(names: str, each: int = 6) -> str:
    parts = names.split()
    return "<br>".join(" ".join(parts[i : i + each]) for i in range(0, len(parts), each))
