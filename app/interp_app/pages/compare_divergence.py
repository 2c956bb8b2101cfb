"""How different two heads are, in a number and by position; and one head on two texts, where that can be said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc

from interp_app.pages.compare_heads import names
from interp_app.pages.compare_texts import SEEN as SEEN_ON_TEXTS
from interp_app.pages.compare_texts import against, opening, profiles
from interp_app.panel import Panel
from interp_app.python import call, options
from interp_app.view import View
from interp_app.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.heads.pair_divergence import DistanceDivergence, PairDivergence

SEEN = ("model", "text", "beyond", "head", "other", "detector")
HEIGHT = 300
MANY = 1 << 27
"""Cells of a map above which the divergence is work of minutes, which holds up nothing else: 11,600 tokens."""
SCALE = "nats of at most ln 2 = 0.693"


def of_heads(workspace: Workspace, view: View) -> PairDivergence:
    """Of the two heads' maps on the text.

    Raises:
        Pending, Failed, InputError
    """
    from interp.heads import pair_divergence

    (layer, head), (other_layer, other) = workspace.head(view), workspace.head(view, "other")
    pair, maps = names(workspace, view), workspace.reading(view).maps
    one, second = maps[layer], maps[other_layer]
    return workspace.made(
        view,
        ("divergence", pair),
        f"divergence of {pair[0]} and {pair[1]}",
        lambda model, text: pair_divergence(one, head, second, other, names=pair),
        size=_bytes,
        lane="long" if one.shape[2] * one.shape[3] > MANY else "quick",
    )


def heads(workspace: Workspace, view: View) -> list[Any]:
    """The number and its profile."""
    return _shown(of_heads(workspace, view))


def heads_table(workspace: Workspace, view: View) -> pd.DataFrame:
    """A row a query."""
    return of_heads(workspace, view).to_frame()


def heads_python(workspace: Workspace, view: View) -> str:
    """The same in a notebook."""
    (layer, head), (other_layer, other) = workspace.head(view), workspace.head(view, "other")
    layers = list(dict.fromkeys((layer, other_layer)))
    return call(
        workspace,
        view,
        f"maps = model.maps(text, {layers!r}{options(beyond_context=view.beyond)})\n"
        f"interp.heads.pair_divergence(maps[{layer!r}], {head}, maps[{other_layer!r}], {other}, "
        f"names={names(workspace, view)!r}).plot()",
    )


def lengths(workspace: Workspace, view: View) -> tuple[int, int]:
    """Tokens of the text and of the other one."""
    one, other = (len(workspace.reading(each).tokens) for each in (view, against(workspace, view)))
    return one, other


def of_texts(workspace: Workspace, view: View) -> PairDivergence | DistanceDivergence:
    """Of the head's maps on both texts, where these have one length; else of its shares by distance."""
    from interp.heads import distance_divergence, pair_divergence

    one, other = lengths(workspace, view)
    found = profiles(workspace, view)
    if one != other:
        return distance_divergence(*found.values())
    layer, head = workspace.head(view)
    second = against(workspace, view)
    maps = [workspace.reading(each).maps[layer] for each in (view, second)]
    titles = tuple(found)
    return workspace.made(
        view,
        ("divergence on", second.text, layer, head),
        "divergence on two texts",
        lambda model, text: pair_divergence(maps[0], head, maps[1], head, names=(titles[0], titles[1])),
        size=_bytes,
        lane="long" if one * one > MANY else "quick",
    )


def texts(workspace: Workspace, view: View) -> list[Any]:
    """The number, its profile where there is one, and why there is none elsewhere."""
    from interp.heads.pair_divergence import PairDivergence

    found = of_texts(workspace, view)
    one, other = lengths(workspace, view)
    if isinstance(found, PairDivergence):
        note = (
            f"Both texts have {one:,} tokens, so that row i of either map is over as many keys. They are compared place by "
            "place: the token at a place differs from text to text, and what is alike here is where the head looks, not at what."
        )
        return [*_shown(found), dmc.Text(note, size="sm", c="dimmed")]
    why = (
        f"The texts have {one:,} and {other:,} tokens, so that their maps have no rows and keys in common: token by token "
        "there is nothing to compare. In its place: the divergence of the shares of attention by distance, whose curves are "
        "above. Texts of one length are compared by position."
    )
    return [
        _number(found.weights, f"{SCALE}, between the shares of attention by distance on the two texts."),
        dmc.Text(
            f"{found.chance:.3f} of uniform attention over the visible keys: what the lengths alone make.", size="sm"
        ),
        dmc.Text(why, size="sm", c="dimmed"),
    ]


def texts_table(workspace: Workspace, view: View) -> pd.DataFrame:
    """A row a query; of texts of different length one row: the divergence by distance and that of uniform attention."""
    import pandas as pd

    found = of_texts(workspace, view)
    return pd.DataFrame([found._asdict()]) if isinstance(found, tuple) else found.to_frame()


def texts_python(workspace: Workspace, view: View) -> str:
    """The same in a notebook."""
    layer, head = workspace.head(view)
    beyond = options(beyond_context=view.beyond)
    one, other = (f"model.maps({text}, [{layer!r}]{beyond})[{layer!r}]" for text in ("text", "other_text"))
    start = opening(workspace, view)
    if len(set(lengths(workspace, view))) == 1:
        named = tuple(profiles(workspace, view))
        return f"{start}interp.heads.pair_divergence({one}, {head}, {other}, {head}, names={named!r}).plot()\n"
    each = (f"interp.views.head_profile({lazy}, {head})" for lazy in (one, other))
    return f"{start}interp.heads.distance_divergence({', '.join(each)})\n"


def _shown(result: PairDivergence) -> list[Any]:
    count = len(result.to_frame())
    return [
        _number(result.divergence, f"{SCALE}, mean over the {count:,} queries of {' and '.join(result.names)}."),
        lambda dark: _fitted(result.plot(dark=dark)),
    ]


def _number(value: float, what: str) -> Any:
    return dmc.Text([dmc.Text(f"{value:.3f} ", fw=700, size="xl", span=True), what], size="sm")


def _fitted(figure: go.Figure) -> go.Figure:
    """As wide as its panel, which says what the title says."""
    return figure.update_layout(width=None, height=HEIGHT, title=None, margin_t=16)


def _bytes(result: PairDivergence) -> int:
    """Numbers, and tokens of some 60 bytes."""
    return 70 * len(result.by_query) + 2**12


_MEANS = (
    "The Jensen-Shannon divergence of two rows of attention, in nats: 0 where they are equal, ln 2 = 0.693, the upper end of the "
    "axis, where they have no key in common."
)
HEADS = Panel(
    "compare-divergence",
    "How different the heads are",
    f"{_MEANS} The line is that of each query, of long texts the mean of neighbours with a band from the least to the largest; "
    "dashed: the mean. Weights as they are, of the whole text, whatever the maps show.",
    SEEN,
    heads,
    heads_table,
    heads_python,
    height=HEIGHT + 40,
)
TEXTS = Panel(
    "compare-text-divergence",
    "How different it is on each text",
    f"{_MEANS} Of texts of one length by position; of others by distance, since their rows cannot be compared.",
    SEEN_ON_TEXTS,
    texts,
    texts_table,
    texts_python,
    height=120,
)
PANELS = (HEADS, TEXTS)
