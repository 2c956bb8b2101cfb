"""A region of one head's map as a heat map, and two of the same place with their difference."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import plotly.graph_objects as go

from interp.errors import InputError
from interp.plots.map_axes import MapAxis, axes_of
from interp.plots.themes import dress, even_scale, root_scale, theme

if TYPE_CHECKING:
    from interp.views.map_origin import MapTokens
    from interp.views.map_region import MapRegion

Colours = tuple[float, float] | Literal["fit", "fixed"]

SIDE, LEAST_SIDE, MOST_SIDE = 560, 140, 900
"""Pixels of the plot's width, and of its height, which follows the region's."""
BAND = 0.03
"""Share of the colour scale that values beyond it take, where there are any."""


def map_figure(
    region: MapRegion,
    tokens: MapTokens | Sequence[str] | None = None,
    *,
    title: str | None = None,
    colours: Colours = "fit",
    dark: bool = False,
) -> go.Figure:
    """Queries from top to bottom, keys from left to right, both by their positions.

    Marks: colour is the number that the colour bar names, on a root scale: a quarter of its upper end is half way up the
    colours, since most weights are small. The lowest colour is 0 (or the lower end, if one was given), grey is what cannot be
    seen: hidden by the mask, left out by the weighting, or padding. The line under the title says whether a cell is one weight,
    or a square the mean or the maximum of its visible cells, and whether the colours are clipped: values above the upper end
    are then drawn in orange, which the colour bar shows at its top. Up to 40 rows or columns are labelled with their tokens
    (spaces around them as "␣", line ends as "↵"), more by position. Hovering gives positions, tokens and the number.

    Args:
        region: as ``TokenMap.region`` and ``interp.views.region`` give it.
        tokens: of the whole text, by index: for both sides, or ``TokenMap.tokens()``.
        title: over the figure, by default the head's name; plain text.
        colours: "fit": from 0 to the largest number shown; "fixed": from 0 to what no number of this head can exceed, so that
            regions and heads can be compared; or the two ends.
        dark: for a dark page.

    Raises:
        InputError: the colours are no range, or "fixed" where nothing bounds the numbers; too few tokens.
    """
    _check_tokens(region, tokens)
    check_colours(colours)
    low, high, note = _range(region, colours)
    of = theme(dark)
    is_clipped = bool((region.values > high).any())
    top = low + (high - low) * (1 + BAND if is_clipped else 1.0)
    scale = root_scale(of.ramp, 1 / (1 + BAND) if is_clipped else 1.0)
    if is_clipped:
        scale += [(scale[-1][0], of.clipped), (1.0, of.clipped)]
    ticks = np.linspace(low, high, 5)
    texts = [f"{tick:.3g}" for tick in ticks]
    texts[-1] = f"above {texts[-1]}" if is_clipped else texts[-1]
    heat = {
        "zmin": low,
        "zmax": top,
        "colorscale": scale,
        "colorbar": {
            "title": {"text": region.label, "side": "right"},
            "tickvals": ticks.tolist(),
            "ticktext": texts,
        },
    }
    if is_clipped:
        note.append(f"clipped at {high:.3g} (highest {region.highest:.3g})")
    if low > 0 and bool((region.values < low).any()):
        note.append(f"all below {low:.3g} alike")
    heading = region.name if title is None else title
    hover = "%{z:.4g}"
    return _figure(region, region.values, axes_of(region, tokens), heat, heading, note, hover, dark)


def difference_figure(
    a: MapRegion,
    b: MapRegion,
    tokens: MapTokens | Sequence[str] | None = None,
    *,
    title: str | None = None,
    dark: bool = False,
) -> go.Figure:
    """``a`` less ``b``, two regions of the same place: of two heads, or of one head before and after an edit.

    Marks: red where ``a`` is larger, blue where ``b`` is, with the ground's colour (white, or black on a dark page) at no
    difference; the scale ends at the largest difference, the same both ways, and its signs are written. Grey cannot be seen in
    one of them or in both.
    The rest is as in ``map_figure``.

    Raises:
        InputError: they are not of the same place, squares, weighting and sinks; too few tokens.
    """
    from interp.views.map_difference import MapDifference

    _check_tokens(b, None)
    _check_tokens(a, tokens)
    both = MapDifference(a, b)
    difference = both.values
    seen = np.abs(difference[~np.isnan(difference)])
    largest = float(seen.max(initial=0.0)) or 1.0
    heat = {
        "zmin": -largest,
        "zmax": largest,
        "colorscale": even_scale(theme(dark).signed),
        "colorbar": {
            "title": {"text": f"difference of {a.label}", "side": "right"},
            "tickvals": np.linspace(-largest, largest, 5).tolist(),
            "ticktext": [f"{tick:+.2g}" if tick else "0" for tick in np.linspace(-largest, largest, 5)],
        },
    }
    heading = both.name if title is None else title
    return _figure(a, difference, axes_of(a, tokens), heat, heading, [], "%{z:+.4g}", dark)


def _figure(
    region: MapRegion,
    values: np.ndarray,
    axes: tuple[MapAxis, MapAxis],
    heat: dict[str, Any],
    heading: str,
    note: list[str],
    number: str,
    dark: bool,
) -> go.Figure:
    of = theme(dark)
    rows, cols = axes
    figure = go.Figure(
        go.Heatmap(
            z=np.ascontiguousarray(values, dtype=np.float32),
            x0=cols.start,
            dx=cols.step,
            y0=rows.start,
            dy=rows.step,
            hovertemplate=f"{rows.hover} → {cols.hover}<br>{_hover_name(region)} {number}<extra></extra>",
            hoverongaps=False,
            **heat,
        )
    )
    figure.update_traces(colorbar={"thickness": 12, "len": 1.0, "outlinewidth": 0, "tickfont": {"color": of.faint}})
    height = int(np.clip(SIDE * (rows.high - rows.low) / (cols.high - cols.low), LEAST_SIDE, MOST_SIDE))
    margin = {"l": rows.margin, "r": 110, "t": 64, "b": cols.margin}
    dress(
        figure,
        dark,
        title={
            "text": escape(heading, quote=False),
            "font": {"size": 15},
            "x": 0.01,
            "y": 1 - 14 / (height + margin["t"] + margin["b"]),
            "yanchor": "top",
            "subtitle": {"text": _subtitle(region, note), "font": {"size": 12, "color": of.faint}},
        },
        plot_bgcolor=of.hidden,
        width=SIDE + margin["l"] + margin["r"],
        height=height + margin["t"] + margin["b"],
        margin=margin,
    )
    x, y = cols.layout(of.faint), rows.layout(of.faint)
    figure.update_layout(xaxis=x[0], yaxis=y[0])
    if len(x) > 1 or len(y) > 1:
        # An axis is drawn where a trace is on it: this one has no mark.
        ends = {"x": [cols.low, cols.high], "y": [rows.low, rows.high]}
        on = {"xaxis": "x2" if len(x) > 1 else "x", "yaxis": "y2" if len(y) > 1 else "y"}
        figure.add_scatter(**ends, **on, mode="markers", marker={"opacity": 0}, hoverinfo="skip", showlegend=False)
        over: dict[str, Any] = {f"{'xy'[n]}axis2": pair[1] for n, pair in enumerate((x, y)) if len(pair) > 1}
        figure.update_layout(over)
    return figure


def check_colours(colours: object) -> None:
    """Refuse what ``map_figure`` cannot colour by.

    Raises:
        InputError: neither "fit", nor "fixed", nor two ends.
    """
    is_range = (
        isinstance(colours, Sequence)
        and len(colours) == 2
        and all(isinstance(end, Real) and not isinstance(end, bool) and np.isfinite(float(end)) for end in colours)
        and 0 <= colours[0] < colours[1]
    )
    if not (is_range or colours in ("fit", "fixed")):
        raise InputError(f"colours: expected 'fit', 'fixed' or two ends with 0 <= low < high, got {colours!r:.60}")


def _range(region: MapRegion, colours: Colours) -> tuple[float, float, list[str]]:
    """The ends of the colour scale, and what is to be said of them."""
    if colours == "fit":
        return 0.0, region.highest if region.highest > 0 else 1.0, []
    if colours == "fixed":
        if not np.isfinite(region.bound):
            raise InputError("colours: nothing bounds the numbers of this map; take 'fit' or the two ends")
        return 0.0, region.bound or 1.0, ["fixed colours"]
    return float(colours[0]), float(colours[1]), []


def _check_tokens(region: MapRegion, tokens: MapTokens | Sequence[str] | None) -> None:
    """The region is one, and tokens are of the whole text, so that there is one for each of its rows and columns."""
    from interp.views.map_region import MapRegion

    if not isinstance(region, MapRegion):
        raise InputError(f"region: expected a MapRegion, as map.region(head) gives it, got {type(region).__name__}")
    sides: tuple[Any, Any] = (tokens, tokens)
    if tokens is not None and hasattr(tokens, "queries"):
        sides = tokens.queries, tokens.keys  # pyright: ignore[reportAttributeAccessIssue]
    for given, size, side in zip(sides, region.map_shape, ("queries", "keys"), strict=True):
        if given is not None and len(given) not in (0, size):
            raise InputError(
                f"tokens: expected one for each of the {size:,} {side} of the map, got {len(given):,}; where queries and keys "
                "differ, give TokenMap.tokens()"
            )


def _subtitle(region: MapRegion, note: list[str]) -> str:
    kind = "single cells" if region.is_exact else f"squares of {region.block} × {region.block}: "
    if not region.is_exact:
        kind += "mean of visible cells" if region.op == "mean" else "max"
    left_out = f", left out (key{'s' * (len(region.sinks) > 1)} {_listed(region.sinks)})" if region.sinks else ""
    return " · ".join([kind, f"grey: not visible{left_out}", *note])


def _listed(keys: Sequence[int]) -> str:
    return ", ".join(map(str, keys[:3])) + (", ..." if len(keys) > 3 else "")


def _hover_name(region: MapRegion) -> str:
    if region.is_exact:
        return region.label
    return f"{'mean of visible cells' if region.op == 'mean' else 'max'}, {region.label}:"
