"""One head on two texts: by distance and by position, and its scores. Their maps have no axes in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interp.errors import InputError
from interp.naming import head_name
from interp_app.pages.compare_scores import score_rows, side_by_side
from interp_app.pages.head_profiles import profile
from interp_app.panel import Panel
from interp_app.python import LONGEST, options
from interp_app.view import View
from interp_app.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.views.head_profile import HeadProfile

SEEN = ("model", "text", "beyond", "head", "detector", "against")
HEIGHT = 320


def against(workspace: Workspace, view: View) -> View:
    """The same head on the other text: the view's, else the first of the list that is another.

    Raises:
        InputError: the other text is not held any more, or is the same one.
        Pending, Failed
    """
    text = workspace.text(view)
    other = view.against or next(each.id for each in workspace.texts.all() if each.id != text.id)
    if workspace.texts.get(other).id == text.id:
        raise InputError(f"other text: it is {text.title!r} again; choose another one")
    return view.but(text=other, head=head_name(*workspace.head(view)))


def profiles(workspace: Workspace, view: View) -> dict[str, HeadProfile]:
    """What the head does on either text, by the text's title."""
    views = (view, against(workspace, view))
    first, second = (workspace.text(each).title for each in views)
    if first == second:
        first, second = f"1: {first}", f"2: {second}"
    return dict(zip((first, second), (profile(workspace, each) for each in views), strict=True))


def distances(workspace: Workspace, view: View) -> Any:
    """Share of the attention by distance, on both."""
    from interp.plots.profile_comparison import distances_figure

    found = profiles(workspace, view)
    return lambda dark: _fitted(distances_figure(found, dark=dark))


def entropies(workspace: Workspace, view: View) -> Any:
    """Entropy by position, on both."""
    from interp.plots.profile_comparison import entropies_figure

    found = profiles(workspace, view)
    return lambda dark: _fitted(entropies_figure(found, dark=dark))


def table(workspace: Workspace, view: View) -> pd.DataFrame:
    """A row a number, with the text that it is of."""
    import pandas as pd

    frames = [found.to_frame().assign(text=name) for name, found in profiles(workspace, view).items()]
    return pd.concat(frames, ignore_index=True)


def distances_python(workspace: Workspace, view: View) -> str:
    return _python(workspace, view, "distances_figure")


def entropies_python(workspace: Workspace, view: View) -> str:
    return _python(workspace, view, "entropies_figure")


def scores_table(workspace: Workspace, view: View) -> pd.DataFrame:
    """A row a detector: the head's scores on both texts."""
    layer, head = workspace.head(view)
    frames = [workspace.scan(each).to_frame() for each in (view, against(workspace, view))]
    return side_by_side(*(frame[(frame["layer"] == layer) & (frame["head"] == head)] for frame in frames))


def scores(workspace: Workspace, view: View) -> Any:
    """The head's scores on both texts."""
    first, second = (workspace.text(each).title for each in (view, against(workspace, view)))
    return score_rows(scores_table(workspace, view), (first, second))


def scores_python(workspace: Workspace, view: View) -> str:
    """Both scans in a notebook."""
    layer, head = workspace.head(view)
    lines = [
        f'interp.scan(model, text={name}, window=512).to_frame().query("layer == {layer} and head == {head}")'
        for name in ("text", "other_text")
    ]
    return f"{opening(workspace, view)}import pandas as pd\n\npd.concat([{', '.join(lines)}])\n"


def _python(workspace: Workspace, view: View, figure: str) -> str:
    layer, head = workspace.head(view)
    beyond = options(beyond_context=view.beyond)
    lines = [
        f"{name!r}: interp.views.head_profile(model.maps({text}, [{layer!r}]{beyond})[{layer!r}], {head})"
        for name, text in zip(profiles(workspace, view), ("text", "other_text"), strict=True)
    ]
    start = f"{opening(workspace, view)}from interp.plots.profile_comparison import {figure}\n\n"
    return f"{start}{figure}({{{', '.join(lines)}}})\n"


def opening(workspace: Workspace, view: View) -> str:
    """The model and both texts."""
    lines = ["import interp", "", f"model = interp.load({workspace.model_name(view)!r})"]
    for name, each in (("text", view), ("other_text", against(workspace, view))):
        content = workspace.text(each).content
        written = repr(content) if len(content) <= LONGEST else f'open("{name}.txt", encoding="utf-8").read()'
        lines.append(f"{name} = {written}")
    return "\n".join(lines) + "\n"


def _fitted(figure: go.Figure) -> go.Figure:
    """As wide as its panel."""
    return figure.update_layout(width=None, height=HEIGHT)


DISTANCES = Panel(
    "compare-distances",
    "How far it looks on each text",
    "Share of the attention by distance, each range twice as wide as the one before; blue: this text, orange: the other; dotted: "
    "uniform attention over the visible keys. Maps of two texts have no axes in common, so profiles stand in their place.",
    SEEN,
    distances,
    table,
    distances_python,
    height=HEIGHT,
)
ENTROPIES = Panel(
    "compare-entropies",
    "How broadly it looks on each text",
    "Entropy of each query's attention in nats by position: 0 where one key has it all; dotted: the most there can be. The same "
    "position is another token in the other text. Of long texts, means over neighbours.",
    SEEN,
    entropies,
    table,
    entropies_python,
    height=HEIGHT,
)
SCORES = Panel(
    "compare-text-scores",
    "Its scores on each text",
    "Mean over the samples ± its standard error; difference: this text less the other. Detectors that measure on random tokens "
    "or on weights see neither text: theirs are equal.",
    ("model", "text", "head", "detector", "against"),
    scores,
    scores_table,
    scores_python,
    button="Scan both texts",
    has_figure=False,
)
PANELS = (DISTANCES, ENTROPIES, SCORES)
