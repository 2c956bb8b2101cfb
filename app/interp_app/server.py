"""The Dash app: pages, callbacks and the guard, put together."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import dash
from dash import Dash, html
from flask import Flask, current_app

from interp_app import shell_callbacks
from interp_app.guard import protect
from interp_app.page import Page
from interp_app.pages import PAGES
from interp_app.panels import add_panels
from interp_app.settings import AppSettings
from interp_app.shell import page_of, shell
from interp_app.view_files import PLOTLY, serve_views
from interp_app.workspace import Workspace

INDEX = f"""<!DOCTYPE html>
<html lang="en">
    <head>
        {{%metas%}}
        <title>{{%title%}}</title>
        {{%favicon%}}
        {{%css%}}
        <script src="{PLOTLY}" defer></script>
        <link rel="preload" as="script" href="/_dash-component-suites/dash/dcc/async-graph.js">
    </head>
    <body>
        {{%app_entry%}}
        <footer>
            {{%config%}}
            {{%scripts%}}
            {{%renderer%}}
        </footer>
    </body>
</html>
"""
"""Dash's own page names no language, and asks for the whole of Plotly and for the part that draws only when a figure has come."""


def create_app(settings: AppSettings | None = None, *, workspace: Workspace | None = None) -> Dash:
    """The app; ``app.server`` is the WSGI application. One process serves it, with threads: the models live in it.

    Raises:
        InputError: settings that cannot be.
    """
    settings = settings or AppSettings()
    workspace = workspace or Workspace(settings)
    server = Flask(__name__, static_folder=None)
    app = Dash(
        __name__,
        server=server,  # pyright: ignore[reportArgumentType]
        title="interp",
        update_title="",
        index_string=INDEX,
        use_pages=True,
        pages_folder="",
        suppress_callback_exceptions=True,
        include_pages_meta=False,
        serve_locally=True,
        compress=True,
    )
    dash.page_registry.clear()
    for page in PAGES:
        dash.register_page(
            page.name,
            path=page.path,
            title=f"{page.title} · interp",
            name=page.title,
            layout=_layout(page),
        )
    app.layout = lambda: shell(workspace, PAGES)
    add_panels(app, workspace, {panel.name: panel for page in PAGES for panel in page.panels})
    shell_callbacks.add(app, workspace)
    serve_views(app)
    for page in PAGES:
        page.add_callbacks(app, workspace)
    protect(server, settings, cache(app.csp_hashes))
    server.config["workspace"] = workspace
    return app


def _layout(page: Page) -> Callable[..., html.Div]:
    # Whatever the address holds arrives by keyword: the function has no parameter that an address could set. Dash keeps the pages
    # of all apps of a process together, under their names: the workspace is that of the app which is asked.
    return lambda **query: page_of(current_app.config["workspace"], page.title, page.content, query)
