"""The tokens of a text, each coloured by a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.plots.labels import token_label

PER_LINE = 12
MOST_CELLS = 600
"""Above so many tokens, a strip shows spans of the text in place of tokens, each by its largest absolute value."""
CELL, LINE = 66, 34
GREY = "#c9c9c9"


@dataclass(frozen=True, eq=False)
class Strip:
    """Tokens and a number for each, what the number is called, and which of the tokens to frame."""

    tokens: Sequence[str]
    values: np.ndarray
    name: str
    framed: int | None = None


def token_strip(strips: Sequence[Strip]) -> go.Figure:
    """Strips of tokens, one under the other, in reading order, left to right and line by line.

    Marks: colour is the number, from white at 0 to dark blue at the largest; of numbers with two signs blue is below 0, white 0
    and red above, on a scale that is the same both ways. Grey is no number. A black frame marks the token that the numbers are
    about. Hovering gives the position, the token and the number. A text of more than ``MOST_CELLS`` tokens is shown in spans of
    equal length, each by the token of its largest absolute number.
    """
    cut = [_in_spans(strip) for strip in strips]
    lines = [max(1, -(-len(each.values) // PER_LINE)) for each in cut]
    figure = make_subplots(
        rows=len(cut),
        cols=1,
        row_heights=lines,
        vertical_spacing=0.0 if len(cut) == 1 else min(0.15, 60 / (LINE * sum(lines) + 100)),
        subplot_titles=[each.name for each in cut] if len(cut) > 1 else None,
    )
    height = LINE * sum(lines) + 60 * len(cut)
    for row, (each, count) in enumerate(zip(cut, lines, strict=True), start=1):
        _add(figure, each, row, count)
        axis: Any = figure.layout["yaxis" if row == 1 else f"yaxis{row}"]
        low, high = axis.domain
        bar = {"title": {"text": each.name}, "thickness": 10, "len": max(high - low, 110 / height)}
        figure.data[-1].update(colorbar=bar | {"y": (low + high) / 2})
        if each.framed is not None:
            y, x = divmod(each.framed, PER_LINE)
            box = {"x0": x - 0.49, "x1": x + 0.49, "y0": y - 0.47, "y1": y + 0.47}
            figure.add_shape(type="rect", **box, line={"color": "#111111", "width": 2}, row=row, col=1)
    figure.update_xaxes(visible=False, range=[-0.5, PER_LINE - 0.5])
    return figure.update_layout(
        width=CELL * PER_LINE + 150,
        height=max(160, height),
        margin={"l": 10, "r": 10, "t": 30 if len(cut) > 1 else 14, "b": 14},
        plot_bgcolor="#ffffff",
        paper_bgcolor="rgba(0,0,0,0)",
    )


@dataclass(frozen=True, eq=False)
class _Cells:
    labels: list[str]
    hover: list[str]
    values: np.ndarray
    name: str
    framed: int | None


def _in_spans(strip: Strip) -> _Cells:
    values = np.asarray(strip.values, dtype=np.float64)
    size = max(1, -(-len(values) // MOST_CELLS))
    name = strip.name if size == 1 else f"{strip.name}, the largest of each {size} tokens"
    labels, hover, shown = [], [], []
    for first in range(0, len(values), size):
        part = values[first : first + size]
        at = first + (0 if np.isnan(part).all() else int(np.nanargmax(np.abs(part))))
        label = token_label(strip.tokens[at])
        span = f"<br>strongest of tokens {first} to {first + len(part) - 1}" if size > 1 else ""
        labels.append(label)
        hover.append(f"{at}: {token_label(strip.tokens[at], 60)}{span}")
        shown.append(values[at])
    framed = None if strip.framed is None else strip.framed // size
    return _Cells(labels, hover, np.array(shown), name, framed)


def _add(figure: go.Figure, cells: _Cells, row: int, lines: int) -> None:
    empty = lines * PER_LINE - len(cells.values)
    grid = np.append(cells.values, np.full(empty, np.nan)).reshape(lines, PER_LINE)
    text = np.array([*cells.labels, *[""] * empty], dtype=object).reshape(lines, PER_LINE)
    hover = np.array([*cells.hover, *[""] * empty], dtype=object).reshape(lines, PER_LINE)
    known = cells.values[np.isfinite(cells.values)]
    largest = float(np.abs(known).max()) if known.size and np.abs(known).max() > 0 else 1.0
    is_signed = bool((known < 0).any())
    undefined = [n for n, value in enumerate(cells.values) if np.isnan(value)]
    for n in undefined:
        y, x = divmod(n, PER_LINE)
        box = {"x0": x - 0.5, "x1": x + 0.5, "y0": y - 0.5, "y1": y + 0.5}
        figure.add_shape(type="rect", **box, fillcolor=GREY, line_width=0, layer="below", row=row, col=1)
    figure.add_trace(
        go.Heatmap(
            z=grid,
            text=text,
            customdata=hover,
            texttemplate="%{text}",
            textfont={"size": 11},
            zmin=-largest if is_signed else 0.0,
            zmax=largest,
            colorscale="RdBu_r" if is_signed else "Blues",
            hovertemplate="%{customdata}<br>%{z:.4g}<extra></extra>",
            hoverongaps=False,
            xgap=1,
            ygap=2,
        ),
        row=row,
        col=1,
    )
    figure.update_yaxes(visible=False, range=[lines - 0.5, -0.5], row=row, col=1)
