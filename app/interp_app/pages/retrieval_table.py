"""A replayed trial as text and as a table: the needle where it stands, and what each head looked at most at each step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc
from dash import html

from interp_app.view import View

if TYPE_CHECKING:
    from interp.heads.replay import Replay

AROUND = 24
"""Tokens of the text that are shown before and after the needle."""
ENDING = 24
"""Tokens that are shown of the prompt's end."""
MARKS = {"answer": "○", "needle": "○"}


def told(trial: Replay) -> Any:
    """The needle in its text, the end of the prompt, and the answer."""
    facts = trial.settings["constants"]
    prompt, first, last = trial.prompt, trial.statement[0], trial.statement[-1] + 1
    ending = max(last, len(prompt) - ENDING)
    pieces: list[Any] = ["…" if first > AROUND else "", "".join(prompt[max(0, first - AROUND) : first])]
    pieces += [
        html.Mark(prompt[j]) if j in trial.answer else html.Span(prompt[j], className="needle") for j in trial.statement
    ]
    pieces += ["".join(prompt[last : min(len(prompt), last + AROUND)]), "…"]
    rows = (
        (f"in the text, depth {facts['placed']:.0f} % of {facts['length']:,} tokens", pieces),
        ("at its end", ["…", "".join(prompt[ending:])]),
        ("written", [html.Mark(trial.text.strip())]),
        ("asked for", [f"{trial.asked}: recall {trial.recall:.0f} %"]),
    )
    return dmc.Stack(
        [
            dmc.Stack([dmc.Text(name, size="xs", c="dimmed"), html.Div(what, className="token-text")], gap=0)
            for name, what in rows
        ],
        gap="xs",
    )


def steps_table(trial: Replay, view: View) -> Any:
    """A row a token that was written, a column a head."""
    links = [dmc.Anchor(name, href=f"/head{view.but(head=name).to_search()}", size="sm") for name in trial.heads]
    head = dmc.TableThead(dmc.TableTr([dmc.TableTh(cell) for cell in ("step", "written", *links)]))
    body = []
    for step, token in enumerate(trial.new):
        cells = [dmc.TableTd(str(step)), dmc.TableTd(html.Code(shown(token), className="token-text"))]
        cells += [dmc.TableTd(_looked_at(trial, step, number)) for number in range(len(trial.heads))]
        body.append(dmc.TableTr(cells))
    return dmc.Table([head, dmc.TableTbody(body)], striped=True, verticalSpacing=4)


def _looked_at(trial: Replay, step: int, head: int) -> list[Any]:
    position = int(trial.position[step, head, 0])
    if position < 0:
        return ["nothing"]
    return [
        f"{mark(trial, step, head)} ".lstrip(),
        html.Code(shown(trial.token(position)), className="token-text"),
        dmc.Text(f" at {position:,}, {trial.weight[step, head, 0]:.2f}", span=True, size="xs", c="dimmed"),
    ]


def mark(trial: Replay, step: int, head: int) -> str:
    """● the head copied at this step, ○ it looked most at another token of the needle, "" elsewhere."""
    return "●" if trial.copied[step, head] else MARKS.get(trial.part(int(trial.position[step, head, 0])), "")


def shown(token: str) -> str:
    """A token with its white space seen; plain text, which the page shows as such."""
    return token.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")
