"""Panels: what a page is made of. A panel is a function of the workspace and the view; what it needs is made in the background.

A page lists its panels, ``panel_box`` lays one out, and ``interp_app.panels`` answers for all of them: it shows progress while
something is made, a message where it cannot be, and the drawing when it is there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc
from dash import dcc, html

from interp_app.view import View
from interp_app.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Panel:
    """One part of a page.

    name        unique in the app
    title       what it shows
    explains    what its marks, colours and numbers mean, in a sentence or two
    depends     fields of the view that it draws from; it is drawn again when one of them changes
    draw        a Plotly figure, a Dash component, a function from whether the page is dark to one of these, or a list of them
                with one figure at most; raises ``Pending`` while something is made, ``InputError`` where it cannot be
    table       its numbers, for download
    python      the call that makes it in a notebook
    button      what a button says that begins it; "" where it is drawn at once
    height      of its skeleton, in pixels
    has_figure  whether it draws a Plotly figure, which can be saved as an image
    """

    name: str
    title: str
    explains: str
    depends: tuple[str, ...]
    draw: Callable[[Workspace, View], go.Figure | Any]
    table: Callable[[Workspace, View], pd.DataFrame] | None = None
    python: Callable[[Workspace, View], str] | None = None
    button: str = ""
    height: int = 260
    has_figure: bool = True

    def seen(self, view: View) -> dict[str, Any]:
        """What of a view it draws from."""
        return {name: getattr(view, name) for name in self.depends}


@dataclass(frozen=True)
class Drawn:
    """What a panel shows from the beginning, None where it is to ask at once; and what of the view that is."""

    content: Any
    shown: dict[str, Any]


def panel_box(panel: Panel, *, beside: Any = None, drawn: Drawn | None = None) -> html.Section:
    """A panel's frame: title, tools, explanation, and the place where it is drawn. What is not drawn yet, the page asks for.

    beside: controls next to the title
    """
    id = {"panel": panel.name}
    waits = drawn.content is None if drawn is not None else not panel.button
    return framed(
        panel.title,
        [
            dmc.Group(
                [
                    dmc.Title(panel.title, order=2, size="h4"),
                    dmc.Group([*_listed(beside), *_tools(panel)], gap="xs"),
                ],
                justify="space-between",
                mb=4,
            ),
            dmc.Text(panel.explains, size="sm", c="dimmed", mb="xs"),
            *(
                [dmc.Button(panel.button, id=id | {"part": "begin"}, size="xs", variant="light", mb="xs")]
                if panel.button
                else []
            ),
            html.Div(
                drawn.content
                if drawn is not None
                else dmc.Skeleton(height=panel.height, radius="sm")
                if waits
                else None,
                id=id | {"part": "body"},
                className="panel-body",
                **_live("true" if waits else "false"),
            ),
            dcc.Store(
                id=id | {"part": "wants"},
                data={"id": id | {"part": "asked"}, "depends": panel.depends, "button": bool(panel.button)},
            ),
            dcc.Store(id=id | {"part": "asked"}),
            dcc.Store(id=id | {"part": "shown"}, data=None if drawn is None else drawn.shown),
            dcc.Store(id=id | {"part": "job"}),
            dcc.Download(id=id | {"part": "download"}),
        ],
    )


def framed(title: str, content: list[Any]) -> html.Section:
    """A part of a page in its frame. title: what a screen reader calls it."""
    return html.Section(dmc.Paper(content, withBorder=True, p="md", radius="md", className="panel"), **labelled(title))


def labelled(text: str) -> dict[str, Any]:
    """The name that a screen reader gives to a component."""
    return {"aria-label": text}


def _live(busy: str) -> dict[str, Any]:
    return {"aria-live": "polite", "aria-busy": busy}


def _tools(panel: Panel) -> list[Any]:
    id = {"panel": panel.name}
    made: list[Any] = []
    if panel.has_figure:
        made += [
            _tool("PNG", id | {"tool": "png"}, f"Save the figure of “{panel.title}” as PNG"),
            _tool("SVG", id | {"tool": "svg"}, f"Save the figure of “{panel.title}” as SVG"),
        ]
    if panel.table is not None:
        made.append(_tool("CSV", id | {"tool": "csv"}, f"Save the numbers of “{panel.title}” as CSV"))
    if panel.python is not None:
        made.append(_tool("Python", id | {"tool": "python"}, "Copy the call that makes this in a notebook"))
    return made


def _tool(label: str, id: dict[str, str], tip: str) -> dmc.Button:
    return dmc.Button(label, id=id, size="compact-xs", variant="subtle", color="gray", **labelled(tip))


def _listed(given: Any) -> list[Any]:
    return [] if given is None else given if isinstance(given, list) else [given]
