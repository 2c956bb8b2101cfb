"""Retrieval: needles hidden by length and depth, the heads that copied them, and one trial token by token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update, set_props

from interp.errors import InputError, InterpError
from interp.naming import head_name
from interp_app.jobs import Pending
from interp_app.page import Page
from interp_app.pages.retrieval_run import SIZES, held, options, replayed, result, watched, written
from interp_app.pages.retrieval_steps import payload
from interp_app.pages.retrieval_table import steps_table, told
from interp_app.panel import Drawn, Panel, labelled, panel_box
from interp_app.python import call
from interp_app.view import View
from interp_app.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.heads.replay import Replay

SEEN = ("model", "trials")
STRONGEST = 8


def grids(workspace: Workspace, view: View) -> go.Figure:
    """Recall by length and depth, beside the heads' scores."""
    return result(workspace, view).plot()


def trials_table(workspace: Workspace, view: View) -> pd.DataFrame:
    """One row a trial."""
    return result(workspace, view).trials


def heads_table(workspace: Workspace, view: View) -> pd.DataFrame:
    """One row a head."""
    return result(workspace, view).to_frame()


def strongest(workspace: Workspace, view: View) -> Any:
    """The heads with the highest scores, each a link to its page."""
    run = result(workspace, view)
    if not run.counted.any():
        raise InputError(
            "no needle was found, so that there is nothing to say of heads: scores are of answers that were found"
        )
    frame = run.to_frame().sort_values("score", ascending=False, kind="stable").head(STRONGEST)
    body = []
    for row in frame.to_dict("records"):
        name = head_name(row["layer"], int(row["head"]))
        error = f" ± {row['stderr']:.3f}" if row["stderr"] == row["stderr"] else ""
        cells = (
            dmc.Anchor(name, href=f"/head{view.but(head=name).to_search()}", size="sm"),
            f"{row['score']:.3f}{error}",
            f"{row['chance']:.4f}",
            "above" if row["is_above"] else "",
        )
        body.append(dmc.TableTr([dmc.TableTd(cell) for cell in cells]))
    head = dmc.TableThead(dmc.TableTr([dmc.TableTh(name) for name in ("head", "score", "chance", "threshold")]))
    return dmc.Stack(
        [
            dmc.Text(run.summary().splitlines()[0], size="sm"),
            dmc.Table([head, dmc.TableTbody(body)], striped=True, verticalSpacing=4),
        ],
        gap="xs",
    )


def python(workspace: Workspace, view: View) -> str:
    """The run in a notebook."""
    given = written(options(workspace.model(view), view))
    return call(workspace, view, f"interp.heads.retrieval(model{given}).plot()", needs_text=False)


def replay_python(workspace: Workspace, view: View) -> str:
    """The replay in a notebook."""
    given = written(options(workspace.model(view), view))
    expression = (
        f"trials = interp.heads.needle_trials(model{given})\n"
        f"interp.heads.replay(model, trials[{view.trial}], {watched(result(workspace, view))!r}).plot()"
    )
    return call(workspace, view, expression, needs_text=False)


RUN = Panel(
    "retrieval-run",
    "Needles found, and who copied them",
    "A fact is hidden in a text (not yours: a built-in one) and asked for at its end. Left: how many percent of the "
    "answer's words the model wrote, by the prompt's length and the needle's depth; white is 0, blue 100. Click a "
    "cell to replay its first trial. Right: the share of the answer's tokens at which a head looked most at the "
    "very token that was written, mean over the trials that were found; a frame marks heads above the threshold, "
    "grey is not defined. Click a head to open it.",
    SEEN,
    grids,
    trials_table,
    python,
    button="Hide needles and look",
    height=320,
)
HEADS = Panel(
    "retrieval-heads",
    "Strongest heads",
    "Mean over the trials that were found ± its standard error, beside chance: the score of a head that looks at a "
    "key drawn at random.",
    SEEN,
    strongest,
    heads_table,
    height=200,
    has_figure=False,
)
TRIAL = Panel(
    "retrieval-trial",
    "The trial",
    "The needle where it stands, underlined, with its answer marked, what the model was asked at the end, and what it wrote.",
    (*SEEN, "trial"),
    lambda workspace, view: told(replayed(workspace, view)),
    height=100,
    has_figure=False,
)
STEP = Panel(
    "retrieval-step",
    "The trial replayed, token by token",
    "Move the slider (its arrow keys do, too) or press the buttons. Filled: the token that is written at this step. Below, the "
    "needle where it stands: blue is the largest weight that one of the heads gives a token at this step, on a root scale, and a "
    "head's name stands after the token that it looks at most. ● copied: it is the answer's token that is written; ○ it stands "
    "in the needle. Recall: the share of the answer's words that is written by now.",
    (*SEEN, "trial"),
    lambda workspace, view: stepped(replayed(workspace, view)),
    lambda workspace, view: replayed(workspace, view).to_frame(),
    replay_python,
    height=300,
    has_figure=False,
)
REPLAY = Panel(
    "retrieval-replay",
    "Where the heads looked in the needle",
    "A grid for each of the four strongest heads: a row a token that was written, a column a token of the needle, "
    "the answer in bold. Colour is the weight in the row that produced the written token, from 0 to 1; the last "
    "column is all other tokens. An orange frame: the head looked most at this token of the answer, and it is the "
    "token that was written.",
    (*SEEN, "trial"),
    lambda workspace, view: replayed(workspace, view).plot(),
    lambda workspace, view: replayed(workspace, view).to_frame(),
    replay_python,
    height=420,
)
STEPS = Panel(
    "retrieval-steps",
    "All steps",
    "For each token that was written, the token that each head looked at most, its position and weight. ● it is the "
    "answer's token that was written (copied); ○ it stands in the needle; no mark: elsewhere in the text.",
    (*SEEN, "trial"),
    lambda workspace, view: steps_table(replayed(workspace, view), view),
    lambda workspace, view: replayed(workspace, view).to_frame(),
    has_figure=False,
)


def stepped(trial: Replay) -> Any:
    """What the script shows of each step, and where; see assets/steps.js."""
    return [dcc.Store(id="replay-data", data=payload(trial)), html.Div(id="replay-place")]


def content(workspace: Workspace, view: View) -> list[Any]:
    """Its layout: the run; below it, once it is there, the heads and a trial."""
    size = dmc.Select(
        id={"control": "trials"},
        data=list(SIZES),
        value=view.trials,
        size="xs",
        w=260,
        allowDeselect=False,
        **labelled("How many needles are hidden"),
    )
    # A run that is there wants no button; what follows it is drawn when it has been.
    begun = {"view": RUN.seen(view), "begun": True}
    drawn = Drawn(None, begun) if held(workspace, view) is not None else None
    return [panel_box(RUN, beside=size, drawn=drawn), dcc.Store(id="retrieval-done"), html.Div(id="retrieval-rest")]


def rest(workspace: Workspace, view: Any) -> Any:
    """What follows the run: nothing where it is not there."""
    try:
        now = View.of(view or {})
    except InputError:
        return None
    run = held(workspace, now)
    if run is None:
        return None
    choose = dmc.Select(
        id="retrieval-choose",
        data=[{"value": str(row["trial"]), "label": described(row)} for row in run.trials.to_dict("records")],
        value=str(now.trial) if now.trial < len(run.trials) else None,
        size="xs",
        w=420,
        searchable=True,
        allowDeselect=False,
        **labelled("Trial"),
    )
    return dmc.Stack(
        [panel_box(HEADS), panel_box(TRIAL, beside=choose), panel_box(STEP), panel_box(REPLAY), panel_box(STEPS)],
        gap="md",
    )


def described(row: Mapping[Any, Any]) -> str:
    """A trial in a list."""
    recall = f"{'found' if row['counted'] else 'not found'}, recall {row['recall']:.0f} %"
    return f"{row['trial']}: {row['length']:,} tokens, depth {row['depth']:g} %, needle {row['needle']}: {recall}"


def chosen(value: Any, view: Any) -> Any:
    """The view with the trial of the list."""
    try:
        now = View.of(view or {})
        trial = View.of({"trial": value}).trial
    except InterpError:
        return no_update
    return no_update if value is None or trial == now.trial else now.but(trial=trial, step=0).to_dict()


def clicked(workspace: Workspace, click: Any, view: Any) -> tuple[str | None, str | None]:
    """A click on the grids: the trial to choose, or the address to go to."""
    try:
        now = View.of(view or {})
        point = click["points"][0]
        run = result(workspace, now)
        if point["curveNumber"] == 1:
            name = head_name(run.layers[int(point["y"])], int(point["x"]))
            return None, f"/head{now.but(head=name).to_search()}"
        grid = run.recall_grid()
        length, depth = grid.index[int(point["y"])], grid.columns[int(point["x"])]
        trials = run.trials
        return str(int(trials[(trials["length"] == length) & (trials["depth"] == depth)]["trial"].iloc[0])), None
    except (Pending, InterpError, KeyError, IndexError, TypeError, ValueError):
        return None, None


def add_callbacks(app: Dash, workspace: Workspace) -> None:
    """What follows the run, the choice of a trial, its steps, and clicks on the grids."""

    app.clientside_callback(
        ClientsideFunction("interp", "runShown"), Input({"panel": RUN.name, "part": "shown"}, "data")
    )

    app.clientside_callback(
        ClientsideFunction("interp", "showSteps"), Output("replay-place", "className"), Input("replay-data", "data")
    )

    @app.callback(
        Output("retrieval-rest", "children"),
        Input("retrieval-done", "data"),
        State("view", "data"),
        prevent_initial_call=True,
    )
    def follow(is_done: Any, view: Any) -> Any:
        return rest(workspace, view) if is_done else None

    @app.callback(
        Output("view", "data", allow_duplicate=True),
        Input("retrieval-choose", "value"),
        State("view", "data"),
        prevent_initial_call=True,
    )
    def choose(value: Any, view: Any) -> Any:
        return chosen(value, view)

    @app.callback(
        Output("go", "href", allow_duplicate=True),
        Input({"panel": RUN.name, "part": "graph"}, "clickData"),
        State("view", "data"),
        prevent_initial_call=True,
    )
    def click(click: Any, view: Any) -> Any:
        trial, address = clicked(workspace, click, view)
        if trial is not None:
            # No Output, as the list is there only once the run is.
            set_props("retrieval-choose", {"value": trial})
        return no_update if address is None else address


RETRIEVAL = Page(
    "retrieval", "Retrieval", "/retrieval", (RUN, HEADS, TRIAL, STEP, REPLAY, STEPS), content, add_callbacks
)
