"""Scans: those that were stored with ``interp scan``; open one, filter, take the numbers away."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import dash_ag_grid as dag
import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, dcc, no_update

from interp.errors import InputError, InterpError
from interp_app.page import Page
from interp_app.panel import Panel, panel_box
from interp_app.stored import opened
from interp_app.view import View
from interp_app.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.scores import HeadScores

COLUMNS = (("scan", "Scan"), ("model", "Model"), ("detectors", "Detectors"), ("seed", "Seed"), ("written", "Written"))
ROWS = 14


def listing(workspace: Workspace, view: View) -> Any:
    """The stored scans as a table that can be filtered and sorted."""
    rows = workspace.stored_scans()
    if rows.empty:
        return dmc.Text(
            "There is no stored scan in the server's folder of scans. Make one with: interp scan demo, or start the dashboard "
            "with another folder: interp app --scans FOLDER.",
            size="sm",
        )
    return dag.AgGrid(
        id="scans-table",
        rowData=[
            {key: "" if value is None else str(value) for key, value in row.items()} for row in rows.to_dict("records")
        ],
        columnDefs=[{"field": field, "headerName": name} for field, name in COLUMNS],
        defaultColDef={"filter": True, "floatingFilter": True, "sortable": True, "resizable": True, "flex": 1},
        dashGridOptions={
            "rowSelection": {"mode": "singleRow", "checkboxes": False, "enableClickSelection": True},
            "domLayout": "autoHeight",
            "pagination": True,
            "paginationPageSize": ROWS,
            "paginationPageSizeSelector": False,
            "suppressFieldDotNotation": True,
        },
        className="ag-theme-alpine-auto-dark",
        style={"height": None},
    )


def scores_of(workspace: Workspace, view: View) -> HeadScores:
    """The scan that the view names."""
    if not view.scan:
        raise InputError("choose a scan in the table above")
    return opened(workspace.settings.scans, view.scan)


def grid(workspace: Workspace, view: View) -> go.Figure:
    """Its heads by the view's detector, or by its first one."""
    scores = scores_of(workspace, view)
    return scores.plot(_detector(scores, view))


def table(workspace: Workspace, view: View) -> pd.DataFrame:
    """All of its scores."""
    return scores_of(workspace, view).to_frame()


def described(workspace: Workspace, view: View) -> Any:
    """Which detectors it has, each a button, and how it was measured."""
    scores = scores_of(workspace, view)
    shown = _detector(scores, view)
    model = scores.settings.get("model", {})
    links = [
        dmc.Anchor(
            name, href=f"/scans{view.but(detector=name).to_search()}", fw=700 if name == shown else 400, size="sm"
        )
        for name in scores.detectors
    ]
    return dmc.Stack(
        [
            dmc.Group(links, gap="sm"),
            dmc.Text(
                f"{model.get('model', '?')}, {model.get('architecture', '?')}, {model.get('dtype', '?')} on "
                f"{model.get('device', '?')}, seed {scores.settings.get('seed', '?')}. {shown}: measured on "
                f"{scores.settings.get('inputs', {}).get(shown, '?')}.",
                size="sm",
            ),
        ],
        gap=4,
    )


def python(workspace: Workspace, view: View) -> str:
    """Opening it in a notebook."""
    scores = scores_of(workspace, view)
    return (
        "from interp.store import load_scan\n\n"
        f"scores = load_scan({view.scan!r})  # in the server's folder of scans\nscores.plot({_detector(scores, view)!r})\n"
    )


def _detector(scores: HeadScores, view: View) -> str:
    return view.detector if view.detector in scores.detectors else scores.detectors[0]


LISTING = Panel(
    "scans-list",
    "Stored scans",
    "Every folder that interp scan wrote. Filter by any column; click a row to open it.",
    (),
    listing,
    has_figure=False,
)
DESCRIBED = Panel(
    "scans-about",
    "The opened scan",
    "Its detectors, and how it was measured.",
    ("scan", "detector"),
    described,
    height=60,
    has_figure=False,
)
GRID = Panel(
    "scans-grid",
    "Its heads",
    "A cell is a head: a row a layer (0 at the top), a column a query head; colour is the score, a frame marks heads above "
    "the threshold.",
    ("scan", "detector"),
    grid,
    table,
    python,
)


def content(workspace: Workspace, view: View) -> list[Any]:
    """Its layout."""
    parquet = [
        dmc.Button("Parquet", id="scans-parquet", size="compact-xs", variant="subtle", color="gray"),
        dcc.Download(id="scans-download"),
    ]
    return [panel_box(LISTING), panel_box(DESCRIBED), panel_box(GRID, beside=parquet)]


def chosen(rows: Any, view: Any) -> Any:
    """The view with the scan of a selected row."""
    try:
        now = View.of(view or {})
        name = rows[0]["scan"] if rows else ""
        return no_update if not name or name == now.scan else View.of(now.to_dict() | {"scan": name}).to_dict()
    except (InputError, KeyError, TypeError, IndexError):
        return no_update


def parquet_of(workspace: Workspace, view: Any) -> Any:
    """The opened scan's table as a Parquet file."""
    try:
        frame = table(workspace, View.of(view or {}))
    except InterpError:
        return no_update
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return dcc.send_bytes(buffer.getvalue(), "scores.parquet")


def add_callbacks(app: Dash, workspace: Workspace) -> None:
    """Opening a row, and the Parquet file."""

    @app.callback(
        Output("view", "data", allow_duplicate=True),
        Input("scans-table", "selectedRows"),
        State("view", "data"),
        prevent_initial_call=True,
    )
    def choose(rows: Any, view: Any) -> Any:
        return chosen(rows, view)

    @app.callback(
        Output("scans-download", "data"),
        Input("scans-parquet", "n_clicks"),
        State("view", "data"),
        prevent_initial_call=True,
    )
    def download(clicks: Any, view: Any) -> Any:
        return parquet_of(workspace, view) if clicks else no_update


SCANS = Page("scans", "Scans", "/scans", (LISTING, DESCRIBED, GRID), content, add_callbacks)
