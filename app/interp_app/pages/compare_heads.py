"""Two heads on one text: their maps of the same place, which are zoomed together, and the difference."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

from dash import dcc

from interp.naming import head_name
from interp_app.pages import map_zoom
from interp_app.pages.head_map import region_of, spans_of
from interp_app.panel import Panel
from interp_app.python import call, options
from interp_app.view import View
from interp_app.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.views.map_difference import MapDifference
    from interp.views.map_region import MapRegion

SEEN = ("model", "text", "beyond", "head", "other", "detector", "rows", "cols", "op", "weighting")
HEIGHT = 600
_COMPUTING = threading.Lock()


def names(workspace: Workspace, view: View) -> tuple[str, str]:
    """The two heads, such as ("L2H5", "L1H2")."""
    return head_name(*workspace.head(view)), head_name(*workspace.head(view, "other"))


def regions(workspace: Workspace, view: View) -> tuple[MapRegion, MapRegion]:
    """The same place of both maps: scored once for the three panels that show it."""
    key = workspace.key_of(view, ("regions", names(workspace, view), view.rows, view.cols, view.op, view.weighting))
    with _COMPUTING:
        found = workspace.jobs.peek(key)
        if found is None:
            one, other = (region_of(workspace, view.but(head=name))[0] for name in names(workspace, view))
            found = one, other
            workspace.jobs.put(key, found, one.values.nbytes + other.values.nbytes + 2**12)
    return found


def first(workspace: Workspace, view: View) -> Any:
    """The map of the head."""
    return _map(workspace, view, 0)


def second(workspace: Workspace, view: View) -> Any:
    """The map of the other head."""
    return _map(workspace, view, 1)


def difference(workspace: Workspace, view: View) -> Any:
    """The head's map less that of the other."""
    found = _difference(workspace, view)
    return lambda dark: _graph(DIFFERENCE.name, found.plot(dark=dark), found.first)


def difference_table(workspace: Workspace, view: View) -> pd.DataFrame:
    """A row a visible square or cell: both values and their difference."""
    frame = _difference(workspace, view).to_frame()
    return frame.rename(columns=dict(zip(("first", "second"), names(workspace, view), strict=True)))


def _difference(workspace: Workspace, view: View) -> MapDifference:
    from interp.views.map_difference import MapDifference

    one, other = regions(workspace, view)
    return MapDifference(one, other, workspace.reading(view).maps[workspace.head(view)[0]].tokens(0))


def first_table(workspace: Workspace, view: View) -> pd.DataFrame:
    return regions(workspace, view)[0].to_frame()


def second_table(workspace: Workspace, view: View) -> pd.DataFrame:
    return regions(workspace, view)[1].to_frame()


def first_python(workspace: Workspace, view: View) -> str:
    return _python(workspace, view, _MAP.format(region="one", title=names(workspace, view)[0]))


def second_python(workspace: Workspace, view: View) -> str:
    return _python(workspace, view, _MAP.format(region="other", title=names(workspace, view)[1]))


def difference_python(workspace: Workspace, view: View) -> str:
    (layer, head), (other_layer, other_head) = (workspace.head(view, which) for which in ("head", "other"))
    lines = [
        f"maps = model.maps(text, {list(dict.fromkeys((layer, other_layer)))!r}{options(beyond_context=view.beyond)})",
        f"maps[{layer!r}].difference({head}, maps[{other_layer!r}], {other_head}{_place(workspace, view)}).plot()",
    ]
    return call(workspace, view, "\n".join(lines))


def _map(workspace: Workspace, view: View, which: int) -> Any:
    """One of the two, with the colours of both: from 0 to the largest number that either shows."""
    from interp.plots.attention_map import map_figure

    both, name = regions(workspace, view), names(workspace, view)[which]
    layer, _ = workspace.head(view, ("head", "other")[which])
    tokens = workspace.reading(view).maps[layer].tokens(0)
    highest = max((region.highest for region in both if not math.isnan(region.highest)), default=0.0)
    colours = (0.0, highest or 1.0)
    panel, region = (FIRST, SECOND)[which].name, both[which]
    return lambda dark: _graph(panel, map_figure(region, tokens, title=name, colours=colours, dark=dark), region)


def _graph(panel: str, figure: go.Figure, region: MapRegion) -> dcc.Graph:
    """As wide as its panel, which is half as wide as the figure: with smaller tokens beside it. A drag is heard by the script."""
    figure.update_xaxes(tickfont_size=9).update_yaxes(tickfont_size=10)
    return dcc.Graph(
        id={"panel": panel, "part": "graph"},
        figure=figure.update_layout(width=None, height=HEIGHT, meta=map_zoom.meta(region)),
        # A double click shows all: the script that hears of it asks for the whole map.
        config={"displaylogo": False, "displayModeBar": False, "doubleClick": "autosize"},
        responsive=True,
        style={"height": f"{HEIGHT}px"},
    )


_MAP = "map_figure({region}, tokens, title={title!r}, colours=(0.0, max(one.highest, other.highest)))"


def _place(workspace: Workspace, view: View) -> str:
    """Arguments that name the part of a map, and what it shows."""
    rows, cols, _ = spans_of(view, workspace.reading(view).maps[workspace.head(view)[0]].shape[2:])
    return options(
        rows=rows,
        cols=cols,
        op=None if view.op == "mean" else view.op,
        weighting=None if view.weighting == "weights" else view.weighting,
    )


def _python(workspace: Workspace, view: View, figure: str) -> str:
    """Both regions in a notebook, and a figure of them."""
    places = [workspace.head(view, which) for which in ("head", "other")]
    layers = list(dict.fromkeys(layer for layer, _ in places))
    lines = [
        "from interp.plots.attention_map import map_figure",
        "",
        f"maps = model.maps(text, {layers!r}{options(beyond_context=view.beyond)})",
        *[
            f"{name} = interp.views.region(maps[{layer!r}], {head}{_place(workspace, view)})"
            for name, (layer, head) in zip(("one", "other"), places, strict=True)
        ],
        f"tokens = maps[{layers[0]!r}].tokens(0)",
        figure,
    ]
    return call(workspace, view, "\n".join(lines))


_MARKS = (
    "A row is a query, a column a key; colour is the weight on a root scale, from 0 to the largest that either head shows, "
    "so that the two maps can be compared; grey cannot be seen. Drag a box to zoom in, with Shift to pan, double-click to see "
    "all: the maps of this page show the same place."
)
FIRST = Panel("compare-first", "The head", _MARKS, SEEN, first, first_table, first_python, height=HEIGHT)
SECOND = Panel("compare-second", "The other head", _MARKS, SEEN, second, second_table, second_python, height=HEIGHT)
DIFFERENCE = Panel(
    "compare-difference",
    "Difference of the maps",
    "Red: the head looks there more, blue: the other does; the ground's colour is no difference, and both ends are as far from "
    "it. Of squares, the difference of what they show. Grey cannot be seen by one of the two.",
    SEEN,
    difference,
    difference_table,
    difference_python,
    height=HEIGHT,
)
PANELS = (FIRST, SECOND, DIFFERENCE)
