"""What happens in panels: drawn when they ask, cancelled, downloaded, copied. When they ask is decided in assets/panels.js."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import dash_mantine_components as dmc
import plotly.graph_objects as go
from dash import ALL, MATCH, ClientsideFunction, Dash, Input, Output, State, ctx, dcc, no_update
from flask import has_request_context, request

from interp.errors import InterpError
from interp_app.jobs import Busy, Failed, Pending
from interp_app.panel import Drawn, Panel, labelled
from interp_app.view import View
from interp_app.workspace import Workspace

SCHEME = "interp_scheme"
"""Cookie of the colour scheme, for what is drawn before the page can say it; see assets/shell.js."""
log = logging.getLogger("interp_app")


def add_panels(app: Dash, workspace: Workspace, panels: Mapping[str, Panel]) -> None:
    """The callbacks of all panels of all pages."""
    body, shown, job, asked, begin, wants = (
        {"panel": MATCH, "part": part} for part in ("body", "shown", "job", "asked", "begin", "wants")
    )

    app.clientside_callback(
        ClientsideFunction("interp", "askPanel"),
        Output(asked, "data"),
        Input("view", "data"),
        Input("scheme", "data"),
        State(shown, "data"),
        State(asked, "data"),
        State(wants, "data"),
        State("control-defaults", "data"),
    )

    app.clientside_callback(
        ClientsideFunction("interp", "waitPanels"),
        Input({"panel": ALL, "part": "shown"}, "data"),
        State({"panel": ALL, "part": "asked"}, "data"),
        State({"panel": ALL, "part": "wants"}, "data"),
        prevent_initial_call=True,
    )

    @app.callback(
        Output(body, "children"),
        Output(shown, "data"),
        Output(job, "data"),
        Output(body, "aria-busy"),
        Input(asked, "data"),
        Input({"panel": MATCH, "part": "again"}, "n_clicks", allow_optional=True),
        Input(begin, "n_clicks", allow_optional=True),
        State("view", "data"),
        State("scheme", "data"),
        State(shown, "data"),
        State(shown, "id"),
        prevent_initial_call=True,
    )
    def draw(asked: Any, again: Any, begun: Any, view: Any, scheme: Any, state: Any, id: Any) -> tuple[Any, ...]:
        panel = panels[id["panel"]]
        trigger = ctx.triggered_id or {}
        part = trigger.get("part") if isinstance(trigger, dict) else None
        content, seen, job, is_busy = answer(
            workspace,
            panel,
            view,
            state or {},
            is_retried=bool(again if part == "again" else begun if part == "begin" else None),
            is_begun=bool(begun),
            is_dark=scheme == "dark",
        )
        if isinstance(seen, dict):
            # By it the page knows which of its questions this answers.
            seen["answers"] = asked.get("count", 0) if isinstance(asked, dict) else 0
        return content, seen, job, is_busy

    @app.callback(
        Input({"panel": ALL, "part": "cancel"}, "n_clicks"),
        State({"panel": ALL, "part": "job"}, "data"),
        State({"panel": ALL, "part": "job"}, "id"),
        prevent_initial_call=True,
    )
    def cancel(clicks: Any, held: Any, ids: Any) -> None:
        if not any(clicks) or not isinstance(ctx.triggered_id, dict):
            return
        for job_id, id in zip(held, ids, strict=True):
            if id["panel"] == ctx.triggered_id["panel"] and isinstance(job_id, str):
                workspace.jobs.cancel_id(job_id)

    @app.callback(
        Output({"panel": MATCH, "part": "download"}, "data"),
        Input({"panel": MATCH, "tool": "csv"}, "n_clicks"),
        State("view", "data"),
        State({"panel": MATCH, "part": "download"}, "id"),
        prevent_initial_call=True,
    )
    def download(clicks: Any, view: Any, id: Any) -> Any:
        return table_of(workspace, panels[id["panel"]], view) if clicks else no_update

    @app.callback(
        Output("copied", "data"),
        Input({"panel": ALL, "tool": "python"}, "n_clicks"),
        State("view", "data"),
        prevent_initial_call=True,
    )
    def copy(clicks: Any, view: Any) -> Any:
        if not any(clicks) or not isinstance(ctx.triggered_id, dict):
            return no_update
        return python_of(workspace, panels[ctx.triggered_id["panel"]], view)


def answer(
    workspace: Workspace,
    panel: Panel,
    view: Mapping[str, Any] | None,
    state: Mapping[str, Any],
    *,
    is_retried: bool = False,
    is_begun: bool = True,
    is_dark: bool = False,
) -> tuple[Any, Any, Any, str]:
    """A panel's content, what of the view it shows, its job, and whether it is busy.

    state: what it shows so far; nothing is sent again that is there already
    is_retried: begin again what failed or was cancelled
    is_begun: whether the panel's button was pressed, where it has one
    """
    try:
        found = View.of(view or {})
    except InterpError as error:
        return message(str(error)), {}, None, "false"
    state = state if isinstance(state, Mapping) else {}
    seen = {"view": panel.seen(found), "dark": is_dark}
    is_other = state.get("view") != seen["view"]
    is_new = is_other or state.get("dark") != is_dark
    if panel.button and not is_retried and (not is_begun or is_new) and not state.get("begun"):
        return no_update, no_update, no_update, "false"
    if panel.button and is_other and not is_retried:
        # Another head or text: what was begun for the last one is not begun for this one.
        return None, {}, None, "false"
    if not is_new and state.get("is_done") and not is_retried:
        return no_update, no_update, no_update, "false"
    seen["begun"] = bool(panel.button)
    try:
        drawn = _drawn(workspace, panel, found, is_retried)
    except Pending as pending:
        return waiting(panel, pending), seen, pending.job.id, "true"
    except Failed as failed:
        again = "Begin again" if failed.was_cancelled else "Try again"
        return message(str(failed), panel, again), seen | {"is_done": True}, None, "false"
    except InterpError as error:
        retry = "Try again" if isinstance(error, Busy) else None
        return message(str(error), panel, retry), seen | {"is_done": True}, None, "false"
    except Exception:
        # Without an answer the panel would show that it is busy for ever. What is shown names no file of this machine.
        log.exception("%s could not be drawn", panel.name)
        text = f"“{panel.title}” failed for a reason that is not known here; the server's log has it"
        return message(text, panel, "Try again"), seen | {"is_done": True}, None, "false"
    return shown(panel, drawn, is_dark=is_dark), seen | {"is_done": True}, None, "false"


def drawn_now(workspace: Workspace, panel: Panel, view: View) -> Drawn | None:
    """A panel that can be drawn at once, for a page that is not to wait for a second answer; None where it cannot."""
    is_dark = has_request_context() and request.cookies.get(SCHEME) == "dark"
    try:
        content = shown(panel, panel.draw(workspace, view), is_dark=is_dark)
    except (Pending, Failed, InterpError):
        return None  # the panel says so itself when it asks
    return Drawn(content, {"view": panel.seen(view), "dark": is_dark, "begun": bool(panel.button), "is_done": True})


def _drawn(workspace: Workspace, panel: Panel, view: View, is_retried: bool) -> Any:
    for _ in range(8):  # a panel draws from few jobs
        try:
            return panel.draw(workspace, view)
        except Failed as failed:
            if not is_retried:
                raise
            workspace.jobs.forget(failed.key)
    return panel.draw(workspace, view)


def shown(panel: Panel, drawn: Any, *, is_dark: bool = False) -> Any:
    """What a panel's ``draw`` gave, as components: a figure as a graph, as wide as its panel where it has no width of its own."""
    if isinstance(drawn, list):
        return [shown(panel, each, is_dark=is_dark) for each in drawn]
    if callable(drawn):
        drawn = drawn(is_dark)
    elif isinstance(drawn, go.Figure):
        drawn = in_scheme(drawn, is_dark=is_dark)
    if not isinstance(drawn, go.Figure):
        return drawn
    return dcc.Graph(
        figure=drawn,
        id={"panel": panel.name, "part": "graph"},
        config={"displaylogo": False, "displayModeBar": False},
        responsive=drawn.layout["width"] is None,
        # A graph that follows its panel's size leaves the height of its figure to the element around it.
        style=None if drawn.layout["width"] is not None else {"height": f"{drawn.layout['height'] or 320}px"},
    )


def in_scheme(figure: go.Figure, *, is_dark: bool) -> go.Figure:
    """The figure on a dark page: light ink, no paper of its own."""
    figure = go.Figure(figure)
    figure.update_layout(paper_bgcolor="rgba(0,0,0,0)")
    if is_dark:
        ink, line = "#c9d1d9", "#3a414b"
        figure.update_layout(
            font_color=ink, legend_font_color=ink, hoverlabel={"bgcolor": "#22272e", "font_color": ink}
        )
        for axes in (figure.update_xaxes, figure.update_yaxes):
            axes(color=ink, gridcolor=line, zerolinecolor=line, linecolor=line)
        if figure.layout["plot_bgcolor"] in (None, "#ffffff", "white"):
            figure.update_layout(plot_bgcolor="rgba(0,0,0,0)")
    return figure


def waiting(panel: Panel, pending: Pending) -> Any:
    """A skeleton with how far the job is, and how to cancel it."""
    job = pending.job
    progress = job.progress
    bar = None
    if job.state == "waiting":
        text = f"{job.title}: waiting, {pending.ahead} before it" if pending.ahead else f"{job.title}: begins"
    elif progress is None or not (progress.total or progress.done):
        text = f"{job.title} …"
    elif not progress.total:
        text = f"{progress.what}: {progress.done:,.0f} {progress.unit}s so far"
    else:
        share = min(1.0, progress.done / progress.total)
        text = f"{progress.what}: {progress.done:,.0f} of {progress.total:,.0f} {progress.unit}s"
        bar = dmc.Progress(value=100 * share, size="sm", **labelled(text))
    return dmc.Stack(
        [
            dmc.Group(
                [
                    dmc.Loader(size="xs"),
                    dmc.Text(text, size="sm"),
                    dmc.Button(
                        "Cancel",
                        id={"panel": panel.name, "part": "cancel"},
                        size="compact-xs",
                        variant="default",
                    ),
                ],
                gap="sm",
            ),
            *([bar] if bar is not None else []),
            dmc.Skeleton(height=panel.height, radius="sm"),
        ],
        gap="xs",
    )


def message(text: str, panel: Panel | None = None, again: str | None = None) -> Any:
    """What cannot be shown, and why. again: what a button says that tries once more."""
    button = (
        [dmc.Button(again, id={"panel": panel.name, "part": "again"}, size="compact-xs", variant="default", mt="xs")]
        if again and panel is not None
        else []
    )
    return dmc.Alert([dmc.Text(text, size="sm"), *button], color="yellow", title="This cannot be shown")


def table_of(workspace: Workspace, panel: Panel, view: Mapping[str, Any] | None) -> Any:
    """A panel's numbers as a CSV file."""
    if panel.table is None:
        return no_update
    try:
        frame = panel.table(workspace, View.of(view or {}))
    except (Pending, InterpError):
        return no_update
    return {"content": frame.to_csv(index=False), "filename": f"{panel.name}.csv", "type": "text/csv"}


def python_of(workspace: Workspace, panel: Panel, view: Mapping[str, Any] | None) -> Any:
    """The call that makes a panel in a notebook."""
    if panel.python is None:
        return no_update
    try:
        return panel.python(workspace, View.of(view or {}))
    except (Pending, InterpError) as error:
        return f"# {error}"
