"""The methods of the Flow page side by side, whether they agree, and which to believe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interp_app.pages import flow_calls as calls
from interp_app.panel import Panel
from interp_app.python import call
from interp_app.view import View
from interp_app.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SEEN = ("model", "text", "beyond", "at")
NARROW = 1000
"""Pixels of a panel in a window of 1280."""


def methods(workspace: Workspace, view: View) -> go.Figure:
    """Raw attention, rollout and attention flow of the output."""
    from interp.flow import side_by_side

    return fitted(side_by_side(calls.results_side_by_side(workspace, view)))


def methods_table(workspace: Workspace, view: View) -> pd.DataFrame:
    """One row a method, level and token."""
    import pandas as pd

    found = calls.results_side_by_side(workspace, view)
    frames = [result.to_frame().assign(method=name) for name, result in found.items()]
    return pd.concat([frame.astype({"level": "str"}) for frame in frames], ignore_index=True)


def methods_python(workspace: Workspace, view: View) -> str:
    return call(workspace, view, f"{_results(workspace, view)}\ninterp.flow.side_by_side(results)")


def agreement(workspace: Workspace, view: View) -> go.Figure:
    """Rank correlations of these methods."""
    from interp.flow import compare

    return compare(calls.results_side_by_side(workspace, view)).plot()


def agreement_table(workspace: Workspace, view: View) -> pd.DataFrame:
    from interp.flow import compare

    return compare(calls.results_side_by_side(workspace, view)).to_frame()


def agreement_python(workspace: Workspace, view: View) -> str:
    return call(workspace, view, f"{_results(workspace, view)}\ninterp.flow.compare(results).plot()")


def faithfulness(workspace: Workspace, view: View) -> go.Figure:
    """Every method against taking tokens out."""
    return calls.faithfulness_of(workspace, view).plot()


def faithfulness_table(workspace: Workspace, view: View) -> pd.DataFrame:
    return calls.faithfulness_of(workspace, view).table()


def faithfulness_python(workspace: Workspace, view: View) -> str:
    return call(workspace, view, calls.FAITHFULNESS)


def _results(workspace: Workspace, view: View) -> str:
    """The results of the methods side by side, as they are made in a notebook."""
    lines = [f"    {name!r}: {each.python}," for name, each in calls.calls_side_by_side(workspace, view).items()]
    return "\n".join(["results = {", *lines, "}"])


def fitted(figure: go.Figure) -> go.Figure:
    """As wide as its panel, where it is wider than a panel may be."""
    width: Any = figure.layout["width"]
    return figure.update_layout(width=None) if width and width > NARROW else figure


METHODS = Panel(
    "flow-methods",
    "Methods side by side",
    "Raw attention of the last layer (mean over heads), rollout, and attention flow, each with a scale of its own from 0. "
    f"Attention flow keeps the {calls.KEEP} largest weights of every query and head above {calls.ALL_EDGES} tokens, and is left "
    f"out above {calls.MOST_FLOWED:,}.",
    SEEN,
    methods,
    methods_table,
    methods_python,
    button="Compare the methods",
    height=480,
)
AGREEMENT = Panel(
    "flow-agreement",
    "Do they agree?",
    "Spearman's rank correlation of the tokens' weights for this output: 1 (red) the same order, -1 (blue) the opposite, 0 "
    "(white) none; grey is not defined. “place” is the token's place in the text: a method that follows it says "
    "little of the text.",
    SEEN,
    agreement,
    agreement_table,
    agreement_python,
    button="Correlate the methods",
)
FAITHFULNESS = Panel(
    "flow-faithfulness",
    "Which method should be believed?",
    f"On the first {calls.PIECES} pieces of {calls.PIECE} tokens of this text: Spearman's correlation of each method's scores "
    "with the effect of taking each token out (its embedding becomes the mean one), and with gradients. Diamond: mean over the "
    "pieces; bar: one standard error; faint dots: single pieces. 1 is the same order of tokens, 0 no relation. Methods that the "
    "model does not allow are left out.",
    ("model", "text", "beyond"),
    faithfulness,
    faithfulness_table,
    faithfulness_python,
    button="Test the methods",
    height=420,
)
PANELS = (METHODS, AGREEMENT, FAITHFULNESS)
