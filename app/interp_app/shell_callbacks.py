"""What happens around the pages: controls and the address, the queue, search, copying, light and dark. See assets/shell.js."""

from __future__ import annotations

from typing import Any

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, no_update

from interp.errors import InterpError
from interp_app.jobs import Pending
from interp_app.view import HEAD, View
from interp_app.workspace import Workspace

SHOWN = 3
"""Jobs that the header names."""


def add(app: Dash, workspace: Workspace) -> None:
    """The callbacks of the shell."""

    def script(name: str, *arguments: Any, **options: Any) -> None:
        app.clientside_callback(ClientsideFunction("interp", name), *arguments, **options)

    defaults = State("control-defaults", "data")
    script(
        "controlled",
        Output("view", "data"),
        Input({"control": ALL}, "value"),
        Input({"control": ALL}, "checked"),
        defaults,
        prevent_initial_call=True,
    )
    # Before what draws from the view: Dash waits for it.
    script(
        "opened",
        Output("view", "data", allow_duplicate=True),
        Input({"page": ALL}, "data"),
        prevent_initial_call="initial_duplicate",
    )
    script("viewed", Input("view", "data"), defaults)
    script("placed", Input("place", "data"))
    script("copied", Input("copied", "data"))
    script("copyLink", Input("copy-link", "n_clicks"), prevent_initial_call=True)
    script("openHelp", Input("open-help", "n_clicks"), prevent_initial_call=True)
    for kind in ("png", "svg"):
        script("saveFigure", Input({"panel": ALL, "tool": kind}, "n_clicks"), prevent_initial_call=True)

    script("askAround", Output("around", "data"), Input("view", "data"), State("around", "data"), defaults)

    @app.callback(
        Output("queue", "children"),
        Output({"control": "text"}, "data"),
        Output("place", "data"),
        Input("queue-poll", "n_intervals"),
        Input("around", "data"),
        State("view", "data"),
        State("queue", "children"),
        State({"control": "text"}, "data"),
        State("place", "data"),
        prevent_initial_call=True,
    )
    def around(_ticks: Any, _asked: Any, view: Any, *held: Any) -> list[Any]:
        found = (queue_text(workspace), texts_of(workspace), place_of(workspace, view))
        return [no_update if now is None or now == before else now for now, before in zip(found, held, strict=True)]

    @app.callback(
        Output("go", "href"),
        Output("search", "error"),
        Input("search", "value"),
        State("view", "data"),
        prevent_initial_call=True,
    )
    def search(sought: Any, view: Any) -> tuple[Any, Any]:
        return found_for(workspace, sought, view)


def texts_of(workspace: Workspace) -> list[dict[str, str]]:
    """The texts that can be chosen."""
    return [{"value": text.id, "label": text.title} for text in workspace.texts.all()]


def queue_text(workspace: Workspace) -> str:
    """What runs and waits, for the header."""
    jobs = workspace.jobs.waiting()
    if not jobs:
        return ""
    named = ", ".join(job.title for job in jobs if job.state == "running")
    waiting = sum(job.state == "waiting" for job in jobs)
    return f"{named or 'starting'}" + (f" · {waiting} waiting" if waiting else "")


def place_of(workspace: Workspace, view: Any) -> dict[str, Any] | None:
    """The head that a view shows, and how many there are, for the arrow keys; None while that is not known."""
    try:
        found = View.of(view or {})
        if not found.head and not workspace.has_scan(found):
            return None  # a page that shows no scores wants no scan
        layer, head = workspace.head(found)
        shape = workspace.model(found).shape
    except (Pending, InterpError):
        return None
    return {"layer": layer, "head": head, "layers": shape.layers, "heads": shape.heads}


def found_for(workspace: Workspace, sought: Any, view: Any) -> tuple[Any, Any]:
    """Where a search leads: the address of a head ("L5H1"), or of a token of the text; and why to nowhere."""
    if not isinstance(sought, str) or not sought.strip():
        return no_update, None
    try:
        now = View.of(view or {})
        match = HEAD.fullmatch(sought.strip().upper())
        if match:
            now = now.but(head=match[0])
            workspace.head(now)
            return f"/head{now.to_search()}", None
        position = _token(workspace, now, sought)
    except Pending:
        return no_update, "still reading; try again in a moment"
    except InterpError as error:
        return no_update, str(error)
    if position is None:
        return no_update, "no head, and no token of the text"
    return f"/head{now.but(lock=position, start=max(0, position - 64)).to_search()}", None


def _token(workspace: Workspace, view: View, sought: str) -> int | None:
    """The next position, after the locked one, of a token that holds what is sought; round the end of the text."""
    wanted = sought.strip().lower()
    strings = workspace.reading(view).strings
    found = [at for at, text in enumerate(strings) if text.strip().lower() == wanted]
    found = found or [at for at, text in enumerate(strings) if wanted in text.lower()]
    return next((at for at in found if at > view.lock), found[0] if found else None)
