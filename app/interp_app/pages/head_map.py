"""The head's map at any zoom: from the whole text down to single weights with their tokens.

The graph is built once for a head; a step of the zoom sends it another figure. What can be scored at once is scored in the
request, for anything larger a pyramid is made in the background.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc
from dash import ALL, ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update

from interp.errors import InputError
from interp.naming import head_name
from interp_app.jobs import Pending
from interp_app.pages import map_zoom
from interp_app.panel import Panel, labelled
from interp_app.python import call, options
from interp_app.view import View
from interp_app.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.views.map_region import MapRegion
    from interp.views.pyramid import Pyramid
    from interp.views.token_map import TokenMap

NAME = "head-map"
SEEN = ("model", "text", "beyond", "head", "detector", "op", "weighting")
ZOOM = ("rows", "cols", "colours")
"""What changes the figure alone."""
AT_ONCE = 1 << 22
"""Cells that are scored while a browser waits: some 0.1 s on one core."""
GRAPH = {"panel": NAME, "part": "graph"}


def drawn_map(workspace: Workspace, view: View) -> Any:
    """The graph with the view's part of the map, and what the zoom needs beside it."""
    region, why = region_of(workspace, view)

    def in_scheme(dark: bool) -> Any:
        return [
            html.Div(_said(why), id="map-said", role="alert"),
            dcc.Graph(
                id=GRAPH,
                figure=figure_of(workspace, view, region, dark),
                # A double click shows all: the script that hears of it asks for the whole map.
                config={"displaylogo": False, "displayModeBar": False, "doubleClick": "autosize"},
            ),
            dcc.Store(id="map-asked"),
            dcc.Store(id="map-shown", data=_state(view, dark)),
            dcc.Interval(id="map-poll", interval=400, disabled=True),
        ]

    return in_scheme


def region_of(workspace: Workspace, view: View) -> tuple[MapRegion, str]:
    """The part of the map that a view names, and why it is another one; "" where it is that."""
    from interp.views import pyramid

    lazy, head = _map(workspace, view)
    rows, cols, why = spans_of(view, lazy.shape[2:])
    asked: dict[str, Any] = {"rows": rows, "cols": cols, "op": view.op, "weighting": view.weighting}
    if pyramid.work(lazy, head, **asked) <= AT_ONCE:
        return pyramid.view(lazy, head, **asked), why
    return pyramid.view(_pyramid(workspace, view), rows=rows, cols=cols), why


def spans_of(view: View, shape: tuple[int, ...]) -> tuple[tuple[int, int] | None, tuple[int, int] | None, str]:
    """Queries and keys that are seen, None for all; and what is wrong with those that the view names. They end with the text."""
    found: list[tuple[int, int] | None] = []
    for which, size in zip(("rows", "cols"), shape, strict=True):
        span = view.span(which)
        if span is not None and span[0] >= size:
            return (
                None,
                None,
                f"{which}: the text has {size:,} tokens, and {span[0]:,} to {span[1] - 1:,} are asked for; all are shown",
            )
        found.append(None if span is None else (span[0], min(span[1], size)))
    return found[0], found[1], ""


def figure_of(workspace: Workspace, view: View, region: MapRegion, dark: bool) -> go.Figure:
    """The region with its tokens. ``layout.meta`` says to the script what is shown, and of how much."""
    from interp.plots.attention_map import map_figure

    lazy, _ = _map(workspace, view)
    figure = map_figure(
        region,
        lazy.tokens(0),
        title=head_name(*workspace.head(view)),
        colours=view.colours,  # pyright: ignore[reportArgumentType]
        dark=dark,
    )
    return figure.update_layout(meta=map_zoom.meta(region))


def zoomed(workspace: Workspace, asked: Any, shown: Any, *, is_dark: bool) -> tuple[Any, Any, Any, bool]:
    """The figure of the view that is asked for, what it shows, what is said, and whether polling stops.

    shown: what the graph shows so far. Another head is drawn by the panel.
    """
    try:
        view = View.of(asked or {})
        state = _state(view, is_dark)
        if not shown or state == shown or any(state[name] != shown[name] for name in (*SEEN, "dark")):
            return no_update, no_update, no_update, True
        region, why = region_of(workspace, view)
        return figure_of(workspace, view, region, is_dark), state, _said(why), True
    except Pending as pending:
        return no_update, no_update, _said(f"{pending.job.title} …"), False
    except InputError as error:
        return no_update, no_update, _said(str(error)), True


def table(workspace: Workspace, view: View) -> pd.DataFrame:
    """A row a visible square or cell of what is shown."""
    return region_of(workspace, view)[0].to_frame()


def python(workspace: Workspace, view: View) -> str:
    """What is shown, in a notebook."""
    layer, head = workspace.head(view)
    rows, cols, _ = spans_of(view, _map(workspace, view)[0].shape[2:])
    given = options(
        rows=rows,
        cols=cols,
        op=None if view.op == "mean" else view.op,
        weighting=None if view.weighting == "weights" else view.weighting,
        colours=None if view.colours == "fit" else view.colours,
    )
    beyond = options(beyond_context=view.beyond)
    return call(workspace, view, f"model.maps(text, [{layer!r}]{beyond})[{layer!r}].plot({head}{given})")


def _map(workspace: Workspace, view: View) -> tuple[TokenMap, int]:
    layer, head = workspace.head(view)
    return workspace.reading(view).maps[layer], head


def _pyramid(workspace: Workspace, view: View) -> Pyramid:
    from interp.progress import Bar
    from interp.views.pyramid import Pyramid, work

    layer, head = workspace.head(view)
    lazy, name = workspace.reading(view).maps[layer], head_name(layer, head)

    def build(_model: Any, _text: Any) -> Pyramid:
        asked: dict[str, Any] = {"op": view.op, "weighting": view.weighting}
        total = work(lazy, head, **asked)
        with Bar(what=f"map of {name}", unit="cell", show=False, total=total) as bar:

            def heard(done: int, _total: int) -> None:
                bar.update(done - bar.count)

            return Pyramid.build(lazy, head, **asked, progress=heard)

    return workspace.made(
        view,
        ("pyramid", layer, head, view.op, view.weighting),
        f"map of {name}",
        build,
        size=lambda pyramid: pyramid.nbytes,
    )


def _state(view: View, dark: bool) -> dict[str, Any]:
    return {name: getattr(view, name) for name in (*SEEN, *ZOOM)} | {"dark": dark}


def _said(why: str) -> Any:
    return dmc.Text(why, size="sm") if why else None


MAP = Panel(
    NAME,
    "Map",
    "A row is a query (the token that looks), a column a key (the token that is looked at). Drag a box to zoom in, double-click "
    "to see all. Where there are too many tokens for single weights, a square is the mean or the maximum of the visible "
    "cells under it, as the line over the map says. Grey cannot be seen; the darker (on a dark page: the lighter), the larger.",
    SEEN,
    drawn_map,
    table,
    python,
    height=640,
)


def controls(view: View) -> list[Any]:
    """Zoom, pooling, weighting, colours."""

    def choice(field: str, data: list[dict[str, str]], what: str) -> Any:
        return dmc.SegmentedControl(
            id={"control": field}, data=data, value=getattr(view, field), size="xs", **labelled(what)
        )

    return [
        map_zoom.buttons(*map_zoom.ZOOM),
        choice("op", _data(mean="mean", max="max"), "What a square of the map shows"),
        choice(
            "weighting",
            _data(weights="weights", value="× value norm", no_sink="without sink"),
            "Which numbers the map and the tokens show",
        ),
        choice("colours", _data(fit="fit", fixed="fixed"), "Range of the colours: fit to what is seen, or fixed"),
    ]


def _data(**labels: str) -> list[dict[str, str]]:
    return [{"value": value, "label": label} for value, label in labels.items()]


def add_callbacks(app: Dash, workspace: Workspace) -> None:
    """The zoom; see assets/zoom.js."""

    def script(name: str, *inputs: Input, **given: Any) -> None:
        app.clientside_callback(ClientsideFunction("interp", name), *inputs, **given)

    script("zoomMap", Input(GRAPH, "relayoutData"), prevent_initial_call=True)
    script("stepMap", Input({"map-zoom": ALL}, "n_clicks"), prevent_initial_call=True)

    @app.callback(
        Output(GRAPH, "figure"),
        Output("map-shown", "data"),
        Output("map-said", "children"),
        Output("map-poll", "disabled"),
        Input("map-asked", "data"),
        Input("map-poll", "n_intervals"),
        State("map-shown", "data"),
        State("scheme", "data"),
        prevent_initial_call=True,
    )
    def zoom(asked: Any, _ticks: Any, shown: Any, scheme: Any) -> tuple[Any, ...]:
        return zoomed(workspace, asked, shown, is_dark=scheme == "dark")
