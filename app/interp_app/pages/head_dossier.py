"""The head over a corpus: its dossier, stored or over the built-in prose, with passages to hover."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, dcc, html

from interp.dossiers.metrics import METRICS
from interp.naming import head_name
from interp_app.jobs import Failed, Pending
from interp_app.panel import Panel, labelled
from interp_app.view import PROSE, View
from interp_app.workspace import PROSE_WINDOW, Workspace

if TYPE_CHECKING:
    import pandas as pd

    from interp.dossiers import HeadDossier

SEEN = ("model", "head", "detector", "text", "dossier")
STRONGEST, OF_EACH_FIFTH = 3, 1
TOKENS = 8
FEW = 50
"""Passages below which the page says that they are few."""
HOW = (
    "These are few: means over so few passages are rough, and the fifths say little. Over a corpus of yours: "
    "interp.head_dossiers(model, texts).save(FOLDER), or interp batch with the kind dossiers, where FOLDER or the batch's output "
    "lies in the server's folder of scans (interp app --scans)."
)


def dossier(workspace: Workspace, view: View) -> Any:
    """Metrics, distributions, leading tokens and passages."""
    from interp.dossiers.payload import passages_payload

    found = _of_head(workspace, view)
    chosen = [p for p in found.passages if p.rank < (STRONGEST if p.group == "strongest" else OF_EACH_FIFTH)]
    inputs = found.settings.get("inputs", {})
    passages = int(inputs.get("passages", 0))
    corpus = _corpus(workspace, view)
    return [
        dmc.Text(
            f"{found.name} over {corpus}: {passages:,} passages, {inputs.get('tokens', 0):,} tokens; passages are ranked by "
            f"{found.by}. {HOW if passages < FEW else ''}",
            size="sm",
            mb="xs",
        ),
        _metrics(found),
        lambda dark: found.plot(dark=dark).update_layout(width=None),
        dmc.SimpleGrid([_tokens(found, side) for side in ("query", "key")], cols={"base": 1, "md": 2}, my="xs"),
        dcc.Store(id="dossier-data", data=passages_payload(chosen, found.by)),
        html.Div(id="dossier-place"),
    ]


def table(workspace: Workspace, view: View) -> pd.DataFrame:
    """Its metrics beside chance."""
    return _of_head(workspace, view).metrics


def python(workspace: Workspace, view: View) -> str:
    """Opening it, or measuring it, in a notebook."""
    from interp_app.stored import listed_dossiers

    name = head_name(*workspace.head(view))
    stored = listed_dossiers(workspace.settings.scans, workspace.model(view).name)
    if view.dossier != PROSE and stored:
        folder, _, unit = (view.dossier or next(iter(stored))).partition(":")
        where = "# in the server's folder of scans"
        if unit:
            found = workspace.dossiers(view).settings["batch"]
            asked = ", ".join(repr(found[key]) for key in ("model", "checkpoint"))
            opened = f"interp.open_store({folder!r}).dossiers({asked})"
        else:
            opened = f"interp.load_dossiers({folder!r})"
        return f"import interp\n\ndossiers = {opened}  {where}\ndossiers.head({name!r})\n"
    length = min(PROSE_WINDOW, workspace.model(view).shape.context or PROSE_WINDOW)
    return (
        f"from pathlib import Path\n\nimport interp\n\nmodel = interp.load({workspace.model_name(view)!r})\n"
        'prose = Path(interp.__file__).with_name("demo").joinpath("prose.txt").read_text(encoding="utf-8")\n'
        f"dossiers = interp.head_dossiers(model, [prose], length={length})\ndossiers.head({name!r})\n"
    )


def controls(workspace: Workspace, view: View) -> list[Any]:
    """Which dossiers are shown, where some are stored."""
    from interp_app.stored import listed_dossiers

    try:
        names = listed_dossiers(workspace.settings.scans, workspace.model(view).name)
    except (Pending, Failed):
        return []  # the panel says it
    if not names:
        return []
    select = dmc.Select(
        id={"control": "dossier"},
        data=[
            *({"value": name, "label": told} for name, told in names.items()),
            {"value": PROSE, "label": "the built-in prose"},
        ],
        value=view.dossier if view.dossier in (*names, PROSE) else next(iter(names)),
        allowDeselect=False,
        size="xs",
        w=180,
        **labelled("Corpus of the dossier"),
    )
    return [select]


def add_callbacks(app: Dash, workspace: Workspace) -> None:
    """Mounting the passages; see assets/dossier.js."""
    app.clientside_callback(
        ClientsideFunction("interp", "showDossier"), Output("dossier-place", "className"), Input("dossier-data", "data")
    )


def _of_head(workspace: Workspace, view: View) -> HeadDossier:
    layer, head = workspace.head(view)
    return workspace.dossiers(view).head(layer, head)


def _corpus(workspace: Workspace, view: View) -> str:
    from interp_app.stored import listed_dossiers

    stored = listed_dossiers(workspace.settings.scans, workspace.model(view).name)
    if view.dossier == PROSE or not stored:
        return f"the built-in prose in passages of {PROSE_WINDOW} tokens"
    name = view.dossier or next(iter(stored))
    return f"the corpus of {stored.get(name, name)}"


def _metrics(found: HeadDossier) -> Any:
    known = {metric.name: metric for metric in METRICS}
    rows = []
    for row in found.metrics.to_dict("records"):
        metric = known.get(row["metric"])
        unit = f", {metric.unit.replace('^2', '²')}" if metric and metric.unit else ""
        numbers = [dmc.TableTd(_number(row[column])) for column in ("value", "stderr", "chance")]
        said = dmc.TableTd(metric.definition if metric else "", c="dimmed", fz="xs")
        rows.append(dmc.TableTr([dmc.TableTh(f"{row['metric']}{unit}"), *numbers, said]))
    names = ("metric", "mean", "± stderr", "chance", "what it is")
    head = dmc.TableThead(dmc.TableTr([dmc.TableTh(name) for name in names]))
    content = dmc.Table([head, dmc.TableTbody(rows)], verticalSpacing=2, **labelled("Metrics of the head"))
    return dmc.TableScrollContainer(content, minWidth=820)


def _tokens(found: HeadDossier, side: Any) -> Any:
    from interp.views.token_text import shown

    title = {"query": "Tokens that look most at others", "key": "Tokens that are looked at most"}[side]
    rows = [
        dmc.TableTr(
            [
                dmc.TableTd(html.Bdi(shown(str(row["token"])).replace("\n", ""), className="token-text")),
                dmc.TableTd(f"{row['count']:,}"),
                dmc.TableTd(f"{row['share']:.1%}"),
                dmc.TableTd(_number(row["lift"])),
            ]
        )
        for row in found.leading(side).head(TOKENS).to_dict("records")
    ]
    head = dmc.TableThead(dmc.TableTr([dmc.TableTh(name) for name in ("token", "times", "share", "lift")]))
    return dmc.Stack(
        [
            dmc.Text(title, size="sm", fw=600),
            dmc.Table([head, dmc.TableTbody(rows)], verticalSpacing=1, **labelled(title)),
        ],
        gap=2,
    )


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"


DOSSIER = Panel(
    "head-dossier",
    "Over a corpus",
    "What this head does over a corpus, not on this text alone. Left figure: passages by the metric that ranks them; dashed "
    "lines cut them into fifths. Right: attention by distance, whiskers two standard errors, dotted uniform attention, which is "
    "chance in the table. Share: of all that the head gives or receives outside of the first position; lift: over what uniform "
    "attention gives. In the passages hover a token: blue is where it looks, orange who looks at it, as far as links were kept; "
    "the colour is the square root of the weight; a click locks, Escape releases; with the keyboard, Tab reaches a passage and "
    "the arrow keys move. Where a head reads is not yet why the model answers as it does.",
    SEEN,
    dossier,
    table,
    python,
    height=320,
)
