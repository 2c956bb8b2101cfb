"""Compare: two heads on one text, or one head on two texts, side by side with the difference."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, no_update

from interp.errors import InputError
from interp_app.jobs import Pending
from interp_app.page import Page
from interp_app.pages import compare_divergence, compare_heads, compare_scores, compare_texts, map_zoom
from interp_app.panel import framed, labelled, panel_box
from interp_app.view import HEAD, View
from interp_app.workspace import Workspace

FIELDS = ("head", "other")
AGAINST = {"control": "against"}


def content(workspace: Workspace, view: View) -> list[Any]:
    """Its layout."""
    choose = dmc.Select(
        id=AGAINST,
        data=others(workspace),
        value=view.against,
        size="xs",
        w=280,
        allowDeselect=False,
        **labelled("The other text"),
    )
    heads = dmc.Group(
        [
            *[
                dmc.TextInput(
                    id=f"compare-{field}",
                    label=label,
                    value=getattr(view, field),
                    placeholder=empty,
                    size="xs",
                    w=230,
                )
                for field, label, empty in (
                    ("head", "Head", "L2H5; empty: the strongest"),
                    ("other", "Other head", "L1H2; empty: the second strongest"),
                )
            ],
            _choice(view, "op", {"mean": "mean", "max": "max"}, "What a square of the maps shows"),
            _choice(
                view,
                "weighting",
                {"weights": "weights", "value": "× value norm", "no_sink": "without sink"},
                "Which numbers the maps show",
            ),
            map_zoom.buttons("in", "out", "all"),
            map_zoom.buttons(*map_zoom.PAN),
        ],
        align="flex-end",
    )
    return [
        framed("Heads to compare", [heads]),
        dmc.SimpleGrid(
            [
                *[panel_box(panel) for panel in compare_heads.PANELS],
                dmc.Stack([panel_box(compare_divergence.HEADS), panel_box(compare_scores.SCORES)], gap="md"),
            ],
            cols={"base": 1, "lg": 2},
        ),
        framed(
            "Texts to compare",
            [dmc.Group([dmc.Text("The head on this text, and on", size="sm"), choose]), dcc.Store(id="against-asked")],
        ),
        dmc.SimpleGrid([panel_box(panel) for panel in compare_texts.PANELS[:2]], cols={"base": 1, "lg": 2}),
        panel_box(compare_divergence.TEXTS),
        panel_box(compare_texts.SCORES),
    ]


def others(workspace: Workspace) -> list[dict[str, str]]:
    """The texts to compare on, for the list."""
    held = [{"value": text.id, "label": text.title} for text in workspace.texts.all()]
    return [{"value": "", "label": "the first other text"}, *held]


def _choice(view: View, field: str, labels: dict[str, str], what: str) -> Any:
    data = [{"value": value, "label": label} for value, label in labels.items()]
    return dmc.SegmentedControl(
        id={"control": field}, data=data, value=getattr(view, field), size="xs", **labelled(what)
    )


def chosen(workspace: Workspace, field: str, typed: Any, view: Any) -> tuple[Any, Any]:
    """A head that was typed, "" for the page's own choice: the view with it, and what is wrong with it."""
    try:
        now = View.of(view or {})
        name = typed.strip().upper() if isinstance(typed, str) else ""
        if name == getattr(now, field):
            return no_update, None
        if name and not HEAD.fullmatch(name):
            raise InputError(f"expected a head such as L2H5, got {name:.20}")
        found = now.but(**{field: name})
        # While the model is not loaded, the panels will say whether it has this head.
        with suppress(Pending):
            workspace.head(found, field)
        return found.to_dict(), None
    except InputError as error:
        return no_update, str(error)


def add_callbacks(app: Dash, workspace: Workspace) -> None:
    """The zoom of the maps, the two fields for heads, and the list of texts; see assets/zoom.js and assets/compare.js."""
    for panel in compare_heads.PANELS:
        app.clientside_callback(
            ClientsideFunction("interp", "zoomMap"),
            Input({"panel": panel.name, "part": "graph"}, "relayoutData"),
            prevent_initial_call=True,
        )

    # Texts come from other pages and other browsers: the list is made anew when its field is entered.
    @app.callback(Output(AGAINST, "data"), Input("against-asked", "data"), prevent_initial_call=True)
    def refresh(_asked: Any) -> list[dict[str, str]]:
        return others(workspace)

    for field in FIELDS:

        @app.callback(
            Output("view", "data", allow_duplicate=True),
            Output(f"compare-{field}", "error"),
            Input(f"compare-{field}", "n_submit"),
            Input(f"compare-{field}", "n_blur"),
            State(f"compare-{field}", "value"),
            State("view", "data"),
            prevent_initial_call=True,
        )
        def choose(submits: Any, blurs: Any, typed: Any, view: Any, field: str = field) -> tuple[Any, Any]:
            # A field that is new fires as well.
            return chosen(workspace, field, typed, view) if submits or blurs else (no_update, no_update)


PANELS = (*compare_heads.PANELS, *compare_divergence.PANELS, compare_scores.SCORES, *compare_texts.PANELS)
COMPARE = Page("compare", "Compare", "/compare", PANELS, content, add_callbacks)
