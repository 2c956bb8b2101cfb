"""Flow: which input tokens an output draws on, by several methods, level by level, as a graph; flow_methods.py compares them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc
from dash import html

from interp_app.page import Page
from interp_app.pages import flow_calls as calls
from interp_app.pages import flow_methods
from interp_app.pages.flow_methods import SEEN, fitted
from interp_app.panel import Panel, labelled, panel_box
from interp_app.python import call
from interp_app.view import View
from interp_app.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

AROUND = 60
"""Tokens that are listed on each side of the output's."""


def tokens(workspace: Workspace, view: View) -> Any:
    """The tokens around the output's, each a button that makes it the one that is explained."""
    from interp.views.token_text import shown

    output = calls.output_of(workspace, view)
    count = len(output.tokens)
    first, stop = max(0, output.position - AROUND), min(count, output.position + AROUND + 1)
    buttons: list[Any] = [
        _jump(position, shown(output.tokens[position]).replace("\n", ""), is_current=position == output.position)
        for position in range(first, stop)
    ]
    before = [_jump(max(0, output.position - 2 * AROUND), f"… {first:,} before ", kind="more")] if first else []
    after = (
        [_jump(min(count - 1, output.position + 2 * AROUND), f" {count - stop:,} after …", kind="more")]
        if stop < count
        else []
    )
    return html.Div([*before, *buttons, *after], className="token-list")


def weights(workspace: Workspace, view: View) -> go.Figure:
    """The view's method on its output."""
    result: Any = calls.result_of(workspace, view)
    if view.method == "rollout":
        from interp.flow import side_by_side

        return fitted(side_by_side({"rollout": result}))
    return fitted(result.plot())


def weights_table(workspace: Workspace, view: View) -> pd.DataFrame:
    """Its numbers, at the model's input."""
    frame = calls.result_of(workspace, view).to_frame()
    return frame[frame["level"] == frame["level"].cat.categories[0]] if "level" in frame else frame


def weights_python(workspace: Workspace, view: View) -> str:
    """The same in a notebook."""
    python = calls.call_of(workspace, view).python
    shown = f'interp.flow.side_by_side({{"rollout": {python}}})' if view.method == "rollout" else f"{python}.plot()"
    return call(workspace, view, shown)


def about(workspace: Workspace, view: View) -> Any:
    """What was found, by which formula, with which options."""
    result: Any = calls.result_of(workspace, view)
    settings, options = result.settings, calls.call_of(workspace, view).options
    lines = [
        *result.summary().splitlines(),
        f"Formula: {settings['method']}.",
        f"Source: {settings['source']}.",
    ]
    if view.method == "attention_flow":
        lines.append(
            f"keep={options['keep']}: of every query and head the {options['keep']} largest weights count, as the output draws "
            f"on more than {calls.ALL_EDGES} tokens; whiskers span what the exact weights can be."
            if options["keep"]
            else "All edges count."
        )
    if view.method == "norm_attention":
        lines.append(f"Shown: layer {result.layers[-1]}, the last; the CSV has all of them.")
    if view.method == "input_gradients":
        lines.append("Shown: the norm, how much the explained number could change; the CSV has gradient x input too.")
    return dmc.Stack([dmc.Text(line, size="sm", className="token-text") for line in lines], gap=4)


def levels(workspace: Workspace, view: View) -> go.Figure:
    """Rollout on every level."""
    found: Any = calls.result_of(workspace, view, "rollout")
    return fitted(found.plot())


def levels_table(workspace: Workspace, view: View) -> pd.DataFrame:
    return calls.result_of(workspace, view, "rollout").to_frame()


def levels_python(workspace: Workspace, view: View) -> str:
    return call(workspace, view, f"{calls.call_of(workspace, view, 'rollout').python}.plot()")


def routes(workspace: Workspace, view: View) -> go.Figure:
    """The routes to the output as a graph."""
    return fitted(calls.routes_of(workspace, view).plot())


def routes_table(workspace: Workspace, view: View) -> pd.DataFrame:
    return calls.routes_of(workspace, view).to_frame()


def routes_python(workspace: Workspace, view: View) -> str:
    return call(workspace, view, f"{calls.routes_call(workspace, view).python}.plot()")


def _jump(position: int, text: str, *, is_current: bool = False, kind: str = "") -> html.Button:
    current: dict[str, Any] = {"aria-current": "true"} if is_current else {}
    return html.Button(text, title=f"token {position:,}", className=kind, **{"data-jump": str(position)}, **current)


TOKENS = Panel(
    "flow-tokens",
    "Output",
    "The token whose output is explained is filled. Click another token to explain its output; ↵ is a line's end.",
    SEEN,
    tokens,
    height=90,
    has_figure=False,
)
WEIGHTS = Panel(
    "flow-weights",
    "What the output draws on",
    "Rollout and attention flow: a bar a token, its height the token's weight (they sum to 1); grey: tokens after the output, on "
    "which it cannot draw; whiskers: what the exact weight can be. The others colour the tokens: relevance (unit-less, at least "
    "0), the gradient's norm, or attention weight above and norm of what is brought below; the frame is the output's token. Of "
    "texts too long for single tokens, sums or maxima over neighbours are shown, and said below the axis.",
    (*SEEN, "method"),
    weights,
    weights_table,
    weights_python,
)
ABOUT = Panel(
    "flow-about",
    "What this method found",
    "Formula, source and options.",
    (*SEEN, "method"),
    about,
    height=90,
    has_figure=False,
)
LEVELS = Panel(
    "flow-levels",
    "Rollout, level by level",
    "A row is the input of a layer, the output on top, the model's input at the bottom; a column is a token. Colour is the share "
    "of the output that comes from the token there, on a root scale; palest is 0, grey a token after the output. Other "
    "methods have no levels between.",
    SEEN,
    levels,
    levels_table,
    levels_python,
    height=300,
)
ROUTES = Panel(
    "flow-routes",
    "Information-flow routes",
    "What the output's representation was really made of, from the last block (top) down to the input. A column is a token that "
    "a route touches, a line an edge, the wider the more flows through it: orange a head (hover its middle for which), blue "
    "an MLP, grey the residual connection. Parts of at most the threshold are dropped: a lower one shows more.",
    (*SEEN, "threshold"),
    routes,
    routes_table,
    routes_python,
    height=420,
)
PANELS = (TOKENS, WEIGHTS, ABOUT, LEVELS, ROUTES, *flow_methods.PANELS)


def content(workspace: Workspace, view: View) -> list[Any]:
    """Its layout."""
    position = dmc.NumberInput(
        id={"control": "at"},
        value=view.at,
        min=-1,
        max=999_999_999,
        allowDecimal=False,
        size="xs",
        w=110,
        debounce=400,
        **labelled("Output position; -1 is the last token"),
    )
    method = dmc.Select(
        id={"control": "method"},
        data=[{"value": name, "label": label} for name, label in calls.METHODS.items()],
        value=view.method,
        size="xs",
        w=200,
        allowDeselect=False,
        **labelled("Method"),
    )
    threshold = dmc.NumberInput(
        id={"control": "threshold"},
        value=view.threshold,
        min=0,
        max=0.99,
        step=0.01,
        decimalScale=4,
        size="xs",
        w=90,
        debounce=400,
        **labelled("Threshold of the routes"),
    )
    return [
        panel_box(TOKENS, beside=[dmc.Text("position (-1: last)", size="xs", c="dimmed"), position]),
        panel_box(WEIGHTS, beside=method),
        panel_box(ABOUT),
        panel_box(LEVELS),
        panel_box(ROUTES, beside=[dmc.Text("threshold", size="xs", c="dimmed"), threshold]),
        *[panel_box(panel) for panel in flow_methods.PANELS],
    ]


FLOW = Page("flow", "Flow", "/flow", PANELS, content)
