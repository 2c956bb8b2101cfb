"""The token strip of the Head page: hover a token and see where it looks and who looks at it. The widget is that of notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc
from dash import ALL, ClientsideFunction, Dash, Input, Output, dcc, html

from interp.naming import head_name
from interp_app.panel import Panel, labelled
from interp_app.python import call, options
from interp_app.view import View
from interp_app.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from interp.views.token_links import TokenLinks

SEEN = ("model", "text", "beyond", "head", "detector", "weighting", "start")
WINDOW = 256
"""Tokens that the strip shows at a time."""
WEIGHTINGS = {"weights": "attention", "value": "value_norm", "no_sink": "without_first"}
"""The view's word for each weighting, and that of ``interp.views.token_links``."""


def strip(workspace: Workspace, view: View) -> Any:
    """The payload of the widget, and where the script mounts it."""
    from interp.views.token_payload import payload

    links = _links(workspace, view)
    length = len(links.tokens)
    name = head_name(*workspace.head(view))
    window = f"Tokens {links.start:,} to {links.stop - 1:,} of {length:,}"
    content = payload({name: links}, title=name, window=window)
    return [dcc.Store(id="strip-data", data=content), html.Div(id="strip-place")]


def table(workspace: Workspace, view: View) -> pd.DataFrame:
    """The strongest links of each token of the window."""
    return _links(workspace, view).to_frame()


def python(workspace: Workspace, view: View) -> str:
    """The widget in a notebook."""
    name = head_name(*workspace.head(view))
    weighting = WEIGHTINGS[view.weighting]
    given = options(
        start=view.start or None,
        size=WINDOW,
        weighting=None if weighting == "attention" else weighting,
        beyond_context=view.beyond,
    )
    return call(workspace, view, f"interp.views.token_view(model, text, [{name!r}]{given})")


def _links(workspace: Workspace, view: View) -> TokenLinks:
    from interp.views.token_links import token_links

    layer, head = workspace.head(view)
    reading = workspace.reading(view)
    start = min(view.start, len(reading.tokens) - 1)
    weighting = WEIGHTINGS[view.weighting]
    return workspace.made(
        view,
        ("links", layer, head, weighting, start),
        f"links of {head_name(layer, head)}",
        lambda model, text: token_links(
            reading.maps[layer],
            reading.batch.token_rows[0] if reading.batch.token_rows else reading.strings,
            head=head,
            start=start,
            size=WINDOW,
            weighting=weighting,  # pyright: ignore[reportArgumentType]
        ),
        size=lambda links: links.weights.nbytes + links.visible.nbytes + links.keys.nbytes * 4,
    )


STRIP = Panel(
    "head-strip",
    "Tokens",
    "Hover a token: blue is where it looks, orange (switched on above the text) who looks at it; colour is the square root of "
    "the weight. Click locks it, Escape releases it. Grey tokens are hidden from it by the mask. The list has "
    "tokens outside of the window, too.",
    SEEN,
    strip,
    table,
    python,
    height=360,
    has_figure=False,
)


def controls(view: View) -> list[Any]:
    """Paging through the text."""
    return [
        dmc.Button("← earlier", id={"strip-page": -1}, size="compact-xs", variant="default"),
        dmc.NumberInput(
            id={"control": "start"},
            value=view.start,
            min=0,
            step=WINDOW,
            allowDecimal=False,
            debounce=True,
            size="xs",
            w=110,
            **labelled("First token that is shown"),
        ),
        dmc.Button("later →", id={"strip-page": 1}, size="compact-xs", variant="default"),
    ]


def add_callbacks(app: Dash, workspace: Workspace) -> None:
    """Mounting the widget, and keeping it in step with the view; see assets/token_strip.js."""
    app.clientside_callback(
        ClientsideFunction("interp", "showStrip"), Output("strip-place", "className"), Input("strip-data", "data")
    )
    app.clientside_callback(
        ClientsideFunction("interp", "pageStrip"), Input({"strip-page": ALL}, "n_clicks"), prevent_initial_call=True
    )
