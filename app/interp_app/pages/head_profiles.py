"""One head by position and by distance: how far it looks, how broadly, and what it looks at most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc
from dash import html

from interp.naming import head_name
from interp_app.panel import Panel
from interp_app.python import call, options
from interp_app.view import View
from interp_app.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.views.head_profile import HeadProfile

SEEN = ("model", "text", "beyond", "head", "detector")
TOP = 12
BEFORE = 64
"""Tokens that the strip shows before the one that is opened."""


def distance(workspace: Workspace, view: View) -> Any:
    """Share of the attention by distance."""
    from interp.plots.head_profile import distance_figure

    found = profile(workspace, view)
    return lambda dark: _narrow(distance_figure(found, dark=dark))


def entropy(workspace: Workspace, view: View) -> Any:
    """Entropy by position."""
    from interp.plots.head_profile import entropy_figure

    found = profile(workspace, view)
    return lambda dark: _narrow(entropy_figure(found, dark=dark))


def received(workspace: Workspace, view: View) -> Any:
    """What keys receive by position."""
    from interp.plots.head_profile import received_figure

    found = profile(workspace, view)
    return lambda dark: _narrow(received_figure(found, dark=dark))


def _narrow(figure: go.Figure) -> go.Figure:
    """As wide as its panel, which says what the title and the legend say."""
    margin = {"l": 64, "r": 8, "t": 8, "b": 48}
    return figure.update_layout(width=None, height=230, title=None, showlegend=False, margin=margin)


def top(workspace: Workspace, view: View) -> Any:
    """The keys with the largest share, each a link that locks it in the strip."""
    from interp.views.token_text import shown

    rows = [
        dmc.TableTr(
            [
                dmc.TableTd(
                    dmc.Anchor(
                        f"{row['position']:,}",
                        href=f"/head{view.but(lock=row['position'], start=max(0, row['position'] - BEFORE)).to_search()}",
                        size="sm",
                    )
                ),
                dmc.TableTd(html.Bdi(shown(row["token"] or ""), className="token-text")),
                dmc.TableTd(f"{row['share']:.3f}"),
                dmc.TableTd(f"{row['received']:.4f}"),
                dmc.TableTd(f"{row['chance']:.4f}"),
            ]
        )
        for row in table_top(workspace, view).to_dict("records")
    ]
    names = ("position", "token", "share of all", "from each that sees it", "chance")
    head = dmc.TableThead(dmc.TableTr([dmc.TableTh(name) for name in names]))
    return dmc.Table([head, dmc.TableTbody(rows)], verticalSpacing=3, striped=True)


def profile(workspace: Workspace, view: View) -> HeadProfile:
    """What the head does by position, of its lazy map."""
    from interp.views.head_profile import head_profile

    layer, head = workspace.head(view)
    lazy = workspace.reading(view).maps[layer]
    return workspace.made(
        view,
        ("profile", layer, head),
        f"profile of {head_name(layer, head)}",
        lambda model, text: head_profile(lazy, head),
        # Some twelve numbers of each token.
        size=lambda found: 100 * len(found.entropy) + 2**16,
    )


def table(workspace: Workspace, view: View) -> pd.DataFrame:
    """A row a number."""
    return profile(workspace, view).to_frame()


def table_top(workspace: Workspace, view: View) -> pd.DataFrame:
    """A row a key."""
    from interp.views.top_keys import top_keys

    return top_keys(profile(workspace, view), TOP)


def python(workspace: Workspace, view: View) -> str:
    """All curves in a notebook."""
    return call(workspace, view, f"{_profile(workspace, view)}.plot()")


def python_top(workspace: Workspace, view: View) -> str:
    """The keys in a notebook."""
    return call(workspace, view, f"interp.views.top_keys({_profile(workspace, view)}, {TOP})")


def _profile(workspace: Workspace, view: View) -> str:
    layer, head = workspace.head(view)
    beyond = options(beyond_context=view.beyond)
    return f"interp.views.head_profile(model.maps(text, [{layer!r}]{beyond})[{layer!r}], {head})"


DISTANCE = Panel(
    "head-distance",
    "How far it looks",
    "A bar is the share of the attention that goes to keys at that distance, each range twice as wide as the one before; dotted: "
    "uniform attention over the visible keys.",
    SEEN,
    distance,
    table,
    python,
    height=230,
)
ENTROPY = Panel(
    "head-entropy",
    "How broadly it looks",
    "Entropy of each query's attention in nats: 0 where one key has it all; dotted: the most there can be, ln of the number of "
    "visible keys. Of long texts a band from the least to the largest.",
    SEEN,
    entropy,
    table,
    python,
    height=230,
)
RECEIVED = Panel(
    "head-received",
    "What is looked at",
    "Mean weight that each key gets from the queries that see it, on a logarithmic axis; dotted: chance. A sink stands out by "
    "orders of magnitude.",
    SEEN,
    received,
    table,
    python,
    height=230,
)
TOP_KEYS = Panel(
    "head-top",
    "Tokens looked at most",
    "Share: of the attention of all queries of the text. Then the mean weight from the queries that see the token, and what "
    "uniform attention would give it. A position opens the token in the strip.",
    SEEN,
    top,
    table_top,
    python_top,
    height=320,
    has_figure=False,
)
PANELS = (DISTANCE, ENTROPY, RECEIVED, TOP_KEYS)
