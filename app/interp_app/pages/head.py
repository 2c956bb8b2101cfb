"""Head: one attention head on a text. Its scores, its map at any zoom, token by token, by position, and what it does."""

from __future__ import annotations

from typing import Any

import dash_mantine_components as dmc
from dash import ALL, ClientsideFunction, Dash, Input

from interp_app.page import Page
from interp_app.pages import head_dossier, head_effects, head_map, head_profiles, head_strip
from interp_app.pages.head_scores import SCORES
from interp_app.panel import panel_box
from interp_app.view import View
from interp_app.workspace import Workspace


def content(workspace: Workspace, view: View) -> list[Any]:
    """Its layout."""
    return [
        panel_box(SCORES),
        dmc.Grid(
            [
                dmc.GridCol(
                    dmc.Stack(
                        [panel_box(head_map.MAP, beside=head_map.controls(view)), panel_box(head_profiles.TOP_KEYS)]
                    ),
                    span={"base": 12, "xl": 8},
                ),
                dmc.GridCol(
                    dmc.SimpleGrid(
                        [panel_box(panel) for panel in head_profiles.PANELS[:3]], cols={"base": 1, "md": 3, "xl": 1}
                    ),
                    span={"base": 12, "xl": 4},
                ),
            ]
        ),
        panel_box(head_strip.STRIP, beside=head_strip.controls(view)),
        panel_box(head_dossier.DOSSIER, beside=head_dossier.controls(workspace, view)),
        dmc.Title("What it does", order=2, size="h4", mt="sm"),
        dmc.SimpleGrid([panel_box(panel) for panel in head_effects.PANELS], cols={"base": 1, "lg": 2}),
    ]


def add_callbacks(app: Dash, workspace: Workspace) -> None:
    """The buttons that lead to other heads, the map's zoom, and the strip."""
    app.clientside_callback(
        ClientsideFunction("interp", "changeHead"), Input({"open-head": ALL}, "n_clicks"), prevent_initial_call=True
    )
    head_map.add_callbacks(app, workspace)
    head_strip.add_callbacks(app, workspace)
    head_dossier.add_callbacks(app, workspace)


PANELS = (SCORES, head_map.MAP, *head_profiles.PANELS, head_strip.STRIP, head_dossier.DOSSIER, *head_effects.PANELS)
HEAD = Page("head", "Head", "/head", PANELS, content, add_callbacks)
