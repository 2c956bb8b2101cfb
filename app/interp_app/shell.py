"""What surrounds every page: header, navigation, the queue, help, and the stores that scripts and callbacks meet in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import dash_mantine_components as dmc
from dash import dcc, html, page_container

from interp_app.page import Page
from interp_app.panel import labelled
from interp_app.shell_callbacks import texts_of
from interp_app.view import View
from interp_app.workspace import Workspace

KEYS = (
    ("← → ↑ ↓", "the head beside, the layer below or above (in the grid and on the Head page)"),
    ("Enter", "open the head that is marked in the grid"),
    ("/", "search: a head such as L5H1, or a token of the text"),
    ("Esc", "release a locked token, close what is open"),
    ("?", "this list"),
)
THEME: Any = {
    "primaryColor": "indigo",
    # Words in the colour of buttons and links stand out by 4.5 : 1 at least.
    "primaryShade": 8,
    "fontFamily": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
    "defaultRadius": "sm",
}

LIVE: dict[str, Any] = {"aria-live": "polite"}


def shell(workspace: Workspace, pages: Sequence[Page]) -> dmc.MantineProvider:
    """The whole document, in which ``page_container`` holds the page. pages: those of the navigation."""
    return dmc.MantineProvider(
        [
            dcc.Store(id="scheme", storage_type="local"),
            dcc.Store(id="view"),
            dcc.Store(id="copied"),
            dcc.Store(id="place"),
            dcc.Store(id="around"),
            dcc.Store(id="control-defaults", data=_defaults(workspace)),
            dcc.Location(id="go", refresh="callback-nav"),
            dcc.Interval(id="queue-poll", interval=2000),
            html.Div(id="announce", role="status", className="visually-hidden", **LIVE),
            html.A("Skip to the page", href="#page", className="skip-link"),
            _help(),
            dmc.AppShell(
                [
                    dmc.AppShellHeader(_header(workspace), px="md"),
                    dmc.AppShellNavbar(_navigation(pages), p="sm"),
                    dmc.AppShellMain(html.Div(page_container, id="page", className="page", tabIndex="-1")),
                ],
                header={"height": 56},
                navbar={"width": 168, "breakpoint": "sm"},
                padding="md",
            ),
        ],
        id="mantine",
        theme=THEME,
        defaultColorScheme="auto",
    )


def page_of(
    workspace: Workspace, title: str, content: Callable[[Workspace, View], list[Any]], query: Mapping[str, Any]
) -> html.Div:
    """One page: its view, which the address says, and its content. An address that is wrong is said, and passed over."""
    from interp.errors import InputError
    from interp_app.panels import message

    wrong = []
    try:
        view = View.of(query)
        workspace.model_name(view)
        workspace.text(view)
        view = workspace.fitted(view)
    except InputError as error:
        view, wrong = View(), [message(str(error))]
    return html.Div(
        [
            dcc.Store(id={"page": title}, data=view.to_dict()),
            dmc.Title(title, order=1, size="h3", mb="sm"),
            *wrong,
            dmc.Stack(content(workspace, view), gap="md"),
        ]
    )


def _defaults(workspace: Workspace) -> dict[str, Any]:
    """What controls hold where the view says nothing."""
    by_field = {field.name: field.default for field in fields(View)}
    return by_field | {"model": workspace.settings.models[0], "text": workspace.texts.first.id}


def _header(workspace: Workspace) -> dmc.Group:
    models = workspace.settings.models
    return dmc.Group(
        [
            dmc.Group(
                [
                    dmc.Anchor("interp", href="/", fw=700, size="lg", underline="never", c="inherit"),
                    dmc.Select(
                        id={"control": "model"},
                        data=[{"value": name, "label": name.rsplit("/", 1)[-1]} for name in models],
                        value=models[0],
                        size="xs",
                        w=180,
                        allowDeselect=False,
                        **labelled("Model"),
                    ),
                    dmc.Select(
                        id={"control": "text"},
                        data=texts_of(workspace),
                        size="xs",
                        w=300,
                        allowDeselect=False,
                        **labelled("Text"),
                    ),
                ],
                gap="md",
            ),
            dmc.Group(
                [
                    dmc.TextInput(
                        id="search",
                        placeholder="L2H5 or a token  ( / )",
                        size="xs",
                        w=180,
                        debounce=True,
                        **labelled("Search a head or a token"),
                    ),
                    dmc.Text(id="queue", size="xs", c="dimmed", **LIVE),
                    dmc.Button("Copy link", id="copy-link", size="compact-sm", variant="default"),
                    dmc.Button("Keys", id="open-help", size="compact-sm", variant="subtle"),
                    dmc.ColorSchemeToggle(
                        lightIcon="☀", darkIcon="☾", variant="default", size="md", **labelled("Light or dark")
                    ),
                ],
                gap="xs",
            ),
        ],
        justify="space-between",
        h="100%",
        wrap="nowrap",
    )


def _navigation(pages: Sequence[Page]) -> list[Any]:
    return [
        *[
            dmc.NavLink(label=label, href=path, id={"nav": path}, active="exact")
            for label, path in ((page.title, page.path) for page in pages)
        ],
        dmc.Space(h="md"),
        dmc.Text(
            "An attention weight says where a head reads, not what the model does with it. Check a finding by editing the head.",
            size="xs",
            c="dimmed",
        ),
    ]


def _help() -> dmc.Modal:
    rows = [dmc.TableTr([dmc.TableTd(dmc.Kbd(key)), dmc.TableTd(what)]) for key, what in KEYS]
    return dmc.Modal(dmc.Table(dmc.TableTbody(rows)), id="help", title="Keys", size="md")
