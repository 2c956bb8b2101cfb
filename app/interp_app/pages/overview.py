"""Overview: every head of the model, coloured by a detector or a statistic; the strongest ones; how the scores are spread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input

from interp.errors import InputError
from interp.heads.registry import detectors
from interp.naming import head_name
from interp_app.page import Page
from interp_app.panel import Panel, labelled, panel_box
from interp_app.panels import drawn_now
from interp_app.python import call
from interp_app.view import View
from interp_app.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

STATISTIC = "statistic:"
"""Before the name of a statistic, where a detector may stand too."""
STATISTICS = {
    "entropy": "entropy of the rows, nats",
    "distance": "mean distance, tokens",
    "peak": "largest weight of a row",
    "special": "attention on special tokens",
    "punctuation": "attention on punctuation",
}
STRONGEST = 12
SEEN = ("model", "text", "detector")


def grid(workspace: Workspace, view: View) -> go.Figure:
    """The layer x head grid of the view's detector or statistic."""
    if view.detector.startswith(STATISTIC):
        return workspace.statistics(view).plot_grid(view.detector.removeprefix(STATISTIC))
    return _scores(workspace, view).plot(view.detector)


def strongest(workspace: Workspace, view: View) -> Any:
    """The heads with the highest values, each a link to its page."""
    rows = _rows(workspace, view).head(STRONGEST)
    body = [
        dmc.TableTr(
            [
                dmc.TableTd(
                    dmc.Anchor(
                        name := head_name(row["layer"], int(row["head"])),
                        href=f"/head{view.but(head=name).to_search()}",
                    )
                ),
                dmc.TableTd(
                    f"{row['value']:.3f}" + (f" ± {row['stderr']:.3f}" if row["stderr"] == row["stderr"] else "")
                ),
                dmc.TableTd(f"{row['chance']:.3f}" if row["chance"] == row["chance"] else "–"),
                dmc.TableTd("above" if row.get("is_above") else ""),
            ]
        )
        for row in rows.to_dict("records")
    ]
    head = dmc.TableThead(dmc.TableTr([dmc.TableTh(name) for name in ("head", "value", "chance", "threshold")]))
    return dmc.Table([head, dmc.TableTbody(body)], striped=True, verticalSpacing=4)


def distribution(workspace: Workspace, view: View) -> go.Figure:
    """How the scores are spread."""
    if view.detector.startswith(STATISTIC):
        return workspace.statistics(view).plot(view.detector.removeprefix(STATISTIC))
    return _scores(workspace, view).plot_distribution(view.detector)


def definition(workspace: Workspace, view: View) -> Any:
    """What the score means, where it and its threshold come from, and what it was measured on."""
    if view.detector.startswith(STATISTIC):
        name = view.detector.removeprefix(STATISTIC)
        result = workspace.statistics(view)
        lines = [
            f"{STATISTICS.get(name, name)}: {result.settings['method']}.",
            "Chance is what uniform attention over the visible keys gives.",
            f"Source: {result.settings['source']}.",
        ]
    else:
        scores = _scores(workspace, view)
        lines = []
        known = detectors().get(view.detector)
        if known is not None:
            lines = [
                f"{known.definition}.",
                f"Source: {known.source}. Threshold {known.threshold:g}: {known.threshold_source}.",
            ]
        lines.append(f"Measured on {scores.settings['inputs'][view.detector]}.")
    return dmc.Stack([dmc.Text(line, size="sm") for line in lines], gap=4)


def table(workspace: Workspace, view: View) -> pd.DataFrame:
    """The numbers of every head."""
    if view.detector.startswith(STATISTIC):
        return workspace.statistics(view).of(view.detector.removeprefix(STATISTIC))
    return _scores(workspace, view).of(view.detector)


def python(workspace: Workspace, view: View) -> str:
    """The grid in a notebook."""
    if view.detector.startswith(STATISTIC):
        name = view.detector.removeprefix(STATISTIC)
        return call(workspace, view, f"interp.heads.surface(model, model.windows(text)).plot_grid({name!r})")
    return call(workspace, view, f"interp.scan(model, text=text, window=512).plot({view.detector!r})")


def _scores(workspace: Workspace, view: View) -> Any:
    scores = workspace.scan(view)
    why = scores.settings.get("left_out", {}).get(view.detector)
    if why:
        raise InputError(f"{view.detector} is not measured here: {why}")
    scores.of(view.detector)
    return scores


def _rows(workspace: Workspace, view: View) -> pd.DataFrame:
    return table(workspace, view).rename(columns={"score": "value"})


GRID = Panel(
    "overview-grid",
    "All heads",
    "A cell is a head: a row a layer (0 at the top), a column a query head. Colour is the score, on the same range for "
    "every model; a frame marks heads above the threshold; grey is not defined. Click a cell to open the head. The orange frame "
    "is where the arrow keys are; Enter opens that head.",
    SEEN,
    grid,
    table,
    python,
    height=320,
)
STRONGEST_HEADS = Panel(
    "overview-strongest",
    "Strongest heads",
    "Mean over the samples ± its standard error, beside chance: what uniform attention over the visible keys would get.",
    SEEN,
    strongest,
    table,
    has_figure=False,
)
DISTRIBUTION = Panel(
    "overview-distribution",
    "Distribution",
    "How many heads have which score. Solid: threshold; dashed: chance. Of a statistic: a dot a head over its layer.",
    SEEN,
    distribution,
    table,
)
DEFINITION = Panel(
    "overview-definition",
    "What is measured",
    "Definition, source, and the input.",
    SEEN,
    definition,
    height=60,
    has_figure=False,
)


def content(workspace: Workspace, view: View) -> list[Any]:
    """Its layout."""
    options = [
        {
            "group": "Detectors",
            "items": [{"value": name, "label": name} for name, d in detectors().items() if d.is_standard],
        },
        {
            "group": "Statistics on this text",
            "items": [{"value": STATISTIC + name, "label": label} for name, label in STATISTICS.items()],
        },
    ]
    choose = dmc.Select(
        id={"control": "detector"},
        data=options,
        value=view.detector,
        size="xs",
        w=240,
        searchable=True,
        allowDeselect=False,
        **labelled("Detector or statistic"),
    )
    grid_box = panel_box(GRID, beside=choose, drawn=drawn_now(workspace, GRID, view))
    return [
        dmc.Grid(
            [
                dmc.GridCol(dmc.Stack([grid_box, panel_box(DEFINITION)]), span={"base": 12, "lg": 8}),
                dmc.GridCol(
                    dmc.Stack([panel_box(STRONGEST_HEADS), panel_box(DISTRIBUTION)]), span={"base": 12, "lg": 4}
                ),
            ]
        )
    ]


def add_callbacks(app: Dash, workspace: Workspace) -> None:
    """A click on a cell opens its head; a figure that is new gets its frame, see assets/overview.js."""
    app.clientside_callback(
        ClientsideFunction("interp", "gridDrawn"), Input({"panel": GRID.name, "part": "graph"}, "figure")
    )
    app.clientside_callback(
        ClientsideFunction("interp", "openHead"),
        Input({"panel": GRID.name, "part": "graph"}, "clickData"),
        prevent_initial_call=True,
    )


OVERVIEW = Page("overview", "Overview", "/", (GRID, STRONGEST_HEADS, DISTRIBUTION, DEFINITION), content, add_callbacks)
