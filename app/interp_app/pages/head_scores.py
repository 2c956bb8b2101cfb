"""The top of the Head page: which head it is, what it reads, and what every detector says of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc

from interp.naming import head_name
from interp_app.jobs import Failed
from interp_app.panel import Panel, labelled
from interp_app.panels import message
from interp_app.python import call
from interp_app.view import View
from interp_app.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from interp.models.hooked import HookedModel

SEEN = ("model", "text", "head", "detector")


def scores(workspace: Workspace, view: View) -> Any:
    """Name, neighbours, KV head, and a row a detector."""
    model, (layer, head) = workspace.model(view), workspace.head(view)
    name = head_name(layer, head)
    top = dmc.Group(
        [
            _step(neighbour(model, layer, head, -1), "←", "the head before"),
            dmc.Title(name, order=3, size="h3", id="head-name"),
            _step(neighbour(model, layer, head, 1), "→", "the next head"),
            dmc.Text(kv_text(model, head), size="sm", c="dimmed"),
        ],
        gap="sm",
        mb="xs",
    )
    return dmc.Stack([top, *_by_detector(workspace, view.but(head=name))], gap=4)


def neighbour(model: HookedModel, layer: int, head: int, step: int) -> str | None:
    """The head before or after, layer after layer; None at the ends."""
    layers = list(model.layers)
    place = layers.index(layer) * model.shape.heads + head + step
    if not 0 <= place < len(layers) * model.shape.heads:
        return None
    return head_name(layers[place // model.shape.heads], place % model.shape.heads)


def kv_text(model: HookedModel, head: int) -> str:
    """Which KV head a query head reads, and with which others."""
    group = max(1, model.shape.heads // max(1, model.shape.kv_heads))
    kv_head = head // group
    if group == 1:
        return f"reads KV head {kv_head}, alone"
    return f"reads KV head {kv_head}, as do query heads {kv_head * group} to {(kv_head + 1) * group - 1}"


def table(workspace: Workspace, view: View) -> pd.DataFrame:
    """One row a detector: the columns of a scan for this head, and its rank among all heads, 1 the highest."""
    layer, head = workspace.head(view)
    frame = workspace.scan(view).to_frame()
    frame["rank"] = frame.groupby("detector", sort=False)["score"].rank(ascending=False, method="min")
    frame["heads"] = frame.groupby("detector", sort=False)["score"].transform("count")
    return frame[(frame["layer"] == layer) & (frame["head"] == head)].reset_index(drop=True)


def python(workspace: Workspace, view: View) -> str:
    """The scores in a notebook."""
    layer, head = workspace.head(view)
    return call(
        workspace,
        view,
        f'scores = interp.scan(model, text=text, window=512).to_frame()\nscores.query("layer == {layer} and head == {head}")',
    )


def _by_detector(workspace: Workspace, view: View) -> list[Any]:
    """The table, or why there is none."""
    try:
        result = workspace.scan(view)
    except Failed as failed:
        if failed.was_cancelled:
            raise
        return [message(str(failed))]
    rows = [_row(view, row, result.range(row["detector"])) for row in table(workspace, view).to_dict("records")]
    titles = ("detector", "score", "", "chance", "threshold", "", "rank")
    head = dmc.TableThead(dmc.TableTr([dmc.TableTh(title) for title in titles]))
    left_out = [
        dmc.Text(f"{detector} is not measured here: {why}", size="sm", c="dimmed")
        for detector, why in result.settings.get("left_out", {}).items()
    ]
    return [dmc.Table([head, dmc.TableTbody(rows)], verticalSpacing=3), *left_out]


def _step(name: str | None, arrow: str, what: str) -> Any:
    return dmc.Button(
        arrow,
        id={"open-head": name or f"none {arrow}"},
        disabled=name is None,
        size="compact-sm",
        variant="default",
        **labelled(f"{what}, {name}" if name else f"there is no other: {what}"),
    )


def _row(view: View, row: Mapping[Any, Any], span: tuple[float, float]) -> Any:
    detector, score = row["detector"], row["score"]
    low, high = span
    is_defined = not math.isnan(score)
    share = 100 * min(1.0, max(0.0, (score - low) / (high - low))) if is_defined else 0.0
    error = f" ± {row['stderr']:.3f}" if not math.isnan(row["stderr"]) else ""
    cells = [
        dmc.Anchor(detector, href=f"/{view.but(detector=detector).to_search()}", size="sm"),
        f"{score:.3f}{error}" if is_defined else "not defined",
        dmc.Progress(
            value=share,
            color="indigo" if row["is_above"] else "gray",
            w=120,
            **labelled(f"{detector}: {score:.3f} on a range from {low:g} to {high:g}"),
        ),
        f"{row['chance']:.3f}" if not math.isnan(row["chance"]) else "–",
        f"{row['threshold']:g}",
        dmc.Badge("above", size="sm", variant="light") if row["is_above"] else dmc.Text("below", size="xs", c="dimmed"),
        f"{row['rank']:.0f} of {row['heads']:.0f}" if is_defined else "–",
    ]
    return dmc.TableTr([dmc.TableTd(cell) for cell in cells])


SCORES = Panel(
    "head-scores",
    "Scores",
    "Mean over the samples ± its standard error; the bar lies on the detector's own range, in colour where the score is above "
    "the threshold. Chance: what uniform attention over the visible keys would get. Rank: among all heads of the model. A name "
    "leads to the grid of that detector. The arrow keys move to other heads.",
    SEEN,
    scores,
    table,
    python,
    height=240,
    has_figure=False,
)
