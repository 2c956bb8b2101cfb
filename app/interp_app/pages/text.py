"""Text: what the model reads. Type, paste or upload it; see its tokens and what the model loses on each."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc
import numpy as np
import pandas as pd
from dash import Dash, Input, Output, State, dcc, html, no_update

from interp.errors import InputError
from interp_app.page import Page
from interp_app.panel import Panel, framed, panel_box
from interp_app.python import call, options
from interp_app.view import View
from interp_app.workspace import Workspace

if TYPE_CHECKING:
    import plotly.graph_objects as go

SEEN = ("model", "text", "beyond")
SHOWN = 20_000
"""Characters of a text that the field shows; of a longer one its beginning, which is then not taken as a new text."""


def facts(workspace: Workspace, view: View) -> Any:
    """How long the text is, and what it costs the model."""
    model, reading = workspace.model(view), workspace.reading(view)
    content = workspace.text(view).content
    parts = [
        ("characters", f"{len(content):,}"),
        ("tokens", f"{len(reading.tokens):,}"),
        ("context of the model", "not bounded" if model.shape.context is None else f"{model.shape.context:,}"),
        ("kept for the maps", f"{reading.bytes / 1e6:,.1f} MB"),
    ]
    if reading.losses is not None:
        mean = float(np.nanmean(reading.losses))
        parts += [("mean loss", f"{mean:.3f} nats a token"), ("perplexity", f"{np.exp(mean):,.2f}")]
    cards = [
        dmc.Stack([dmc.Text(value, fw=600), dmc.Text(name, size="xs", c="dimmed")], gap=0) for name, value in parts
    ]
    notes = [dmc.Text(reading.no_losses, size="sm")] if reading.no_losses else []
    return dmc.Stack([dmc.Group(cards, gap="xl"), *notes])


def losses(workspace: Workspace, view: View) -> go.Figure:
    """Tokens coloured by loss."""
    from interp.plots.token_strip import Strip, token_strip

    reading = workspace.reading(view)
    if reading.losses is None:
        raise InputError(f"there is no loss to show: {reading.no_losses}")
    return token_strip([Strip(reading.strings, reading.losses, "loss, nats")])


def table(workspace: Workspace, view: View) -> pd.DataFrame:
    """One row a token: position, token, characters, loss."""
    reading = workspace.reading(view)
    return pd.DataFrame(
        {
            "position": [token.position for token in reading.tokens],
            "id": [token.id for token in reading.tokens],
            "token": reading.strings,
            "start": [token.start for token in reading.tokens],
            "end": [token.end for token in reading.tokens],
            "loss": np.nan if reading.losses is None else reading.losses,
        }
    )


def python(workspace: Workspace, view: View) -> str:
    """The losses in a notebook."""
    beyond = options(beyond_context=view.beyond)
    return call(workspace, view, f"interp.causal.token_losses(model, text{beyond})")


FACTS = Panel(
    "text-facts",
    "This text",
    "Tokens are those of the model's own tokenizer.",
    SEEN,
    facts,
    table,
    height=60,
    has_figure=False,
)
LOSSES = Panel(
    "text-losses",
    "Loss on each token",
    "Colour is -ln p(token | tokens before it) in nats: dark tokens surprised the model. Grey is no number: nothing predicts the "
    "first token. Of a text with more than 600 tokens spans are shown, each by its most surprising token.",
    SEEN,
    losses,
    table,
    python,
)


def content(workspace: Workspace, view: View) -> list[Any]:
    """Its layout."""
    try:
        text = workspace.text(view).content
    except InputError:
        text = ""
    form = framed(
        "Give a text",
        [
            dmc.Textarea(
                id="text-input",
                label="Text",
                description="What you type is sent to this server alone, held in its memory, and shown as plain text.",
                value=text[:SHOWN],
                autosize=True,
                minRows=6,
                maxRows=16,
                spellCheck=False,
                classNames={"input": "token-text"},
            ),
            dmc.Group(
                [
                    dmc.Button("Read this text", id="text-read", size="sm"),
                    dcc.Upload(
                        dmc.Button("Upload a text file", size="sm", variant="default"),
                        id="text-upload",
                        multiple=False,
                        max_size=workspace.settings.longest_text,
                        accept=".txt,.md,.json,.py,text/*",
                    ),
                    dmc.Switch(
                        id={"control": "beyond"},
                        label="Allow texts beyond the model's context",
                        checked=view.beyond,
                        size="sm",
                    ),
                ],
                mt="sm",
            ),
            html.Div(id="text-error", role="alert"),
        ],
    )
    return [form, panel_box(FACTS), panel_box(LOSSES)]


def given(workspace: Workspace, typed: Any, view: Any) -> tuple[Any, Any]:
    """A text that was typed: the view that shows it, and what is wrong with it."""
    try:
        now = View.of(view or {})
        if isinstance(typed, str) and typed == workspace.text(now).content[:SHOWN]:
            return no_update, None
        return _with(workspace, now, typed if isinstance(typed, str) else ""), None
    except InputError as error:
        return no_update, dmc.Text(str(error), c="red", size="sm", mt="xs")


def uploaded(workspace: Workspace, contents: Any, name: Any, view: Any) -> tuple[Any, Any, Any]:
    """A file that was uploaded, as the browser sends it ("data:...;base64,..."): the view, the text, what is wrong with it."""
    try:
        now = View.of(view or {})
        if not isinstance(contents, str) or "," not in contents:
            raise InputError("the upload did not arrive whole; try again")
        try:
            text = base64.b64decode(contents.partition(",")[2], validate=True).decode("utf-8-sig")
        except (binascii.Error, UnicodeDecodeError):
            raise InputError(f"{str(name)[:60]!r} is not text in UTF-8; give a plain text file") from None
        return _with(workspace, now, text), text[:SHOWN], None
    except InputError as error:
        return no_update, no_update, dmc.Text(str(error), c="red", size="sm", mt="xs")


def _with(workspace: Workspace, view: View, content: str) -> dict[str, Any]:
    text = workspace.texts.add(content)
    return view.but(text=text.id, rows="", cols="", lock=-1, start=0, at=-1).to_dict()


def add_callbacks(app: Dash, workspace: Workspace) -> None:
    """Reading what is typed or uploaded."""

    @app.callback(
        Output("view", "data", allow_duplicate=True),
        Output("text-error", "children"),
        Input("text-read", "n_clicks"),
        State("text-input", "value"),
        State("view", "data"),
        prevent_initial_call=True,
    )
    def read(clicks: Any, typed: Any, view: Any) -> tuple[Any, Any]:
        return given(workspace, typed, view) if clicks else (no_update, no_update)

    @app.callback(
        Output("view", "data", allow_duplicate=True),
        Output("text-input", "value"),
        Output("text-error", "children", allow_duplicate=True),
        Input("text-upload", "contents"),
        State("text-upload", "filename"),
        State("view", "data"),
        prevent_initial_call=True,
    )
    def upload(contents: Any, name: Any, view: Any) -> tuple[Any, Any, Any]:
        return uploaded(workspace, contents, name, view) if contents else (no_update, no_update, no_update)


TEXT = Page("text", "Text", "/text", (FACTS, LOSSES), content, add_callbacks)
