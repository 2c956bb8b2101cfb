"""What a page is: panels, how they are laid out, and callbacks of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dash import Dash

from interp_app.panel import Panel
from interp_app.view import View
from interp_app.workspace import Workspace


def no_callbacks(app: Dash, workspace: Workspace) -> None:
    """Of a page whose panels say all."""


@dataclass(frozen=True)
class Page:
    """One page. content: its components for a view, before anything is computed; add_callbacks: beside those of its panels."""

    name: str
    title: str
    path: str
    panels: tuple[Panel, ...]
    content: Callable[[Workspace, View], list[Any]]
    add_callbacks: Callable[[Dash, Workspace], None] = no_callbacks
