"""The scores of two heads on one text, and what the scores of two scans are side by side."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc

from interp_app.pages.compare_heads import names
from interp_app.panel import Panel
from interp_app.python import call
from interp_app.view import View
from interp_app.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


def scores_table(workspace: Workspace, view: View) -> pd.DataFrame:
    """A row a detector: the scores of both heads on this text, their standard errors and their difference."""
    frame = workspace.scan(view).to_frame()
    places = (workspace.head(view), workspace.head(view, "other"))
    return side_by_side(*(frame[(frame["layer"] == layer) & (frame["head"] == head)] for layer, head in places))


def scores(workspace: Workspace, view: View) -> Any:
    """Both heads' scores."""
    return score_rows(scores_table(workspace, view), names(workspace, view))


def scores_python(workspace: Workspace, view: View) -> str:
    """The scores in a notebook."""
    (layer, head), (other_layer, other) = workspace.head(view), workspace.head(view, "other")
    return call(
        workspace,
        view,
        "scores = interp.scan(model, text=text, window=512).to_frame()\n"
        f'scores.query("(layer == {layer} and head == {head}) or (layer == {other_layer} and head == {other})")',
    )


def side_by_side(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Rows of two scans by detector. Columns: detector, threshold, first, first_stderr, second, second_stderr, difference."""
    columns = ["detector", "threshold", "score", "stderr"]
    both = one[columns].merge(
        other[["detector", "score", "stderr"]], on="detector", how="outer", suffixes=("_first", "_second"), sort=False
    )
    both = both.rename(
        columns={
            "score_first": "first",
            "stderr_first": "first_stderr",
            "score_second": "second",
            "stderr_second": "second_stderr",
        }
    )
    return both.assign(difference=both["first"] - both["second"])


def score_rows(frame: pd.DataFrame, titles: tuple[str, str]) -> Any:
    """That as a table to read; what is not defined is a dash."""

    def number(value: float, stderr: float) -> str:
        if math.isnan(value):
            return "–"
        return f"{value:.3f}" + ("" if math.isnan(stderr) else f" ± {stderr:.3f}")

    rows = [
        dmc.TableTr(
            [
                dmc.TableTd(text)
                for text in (
                    row["detector"],
                    number(row["first"], row["first_stderr"]),
                    number(row["second"], row["second_stderr"]),
                    "–" if math.isnan(row["difference"]) else f"{row['difference']:+.3f}",
                    f"{row['threshold']:g}",
                )
            ]
        )
        for row in frame.to_dict("records")
    ]
    head = dmc.TableThead(dmc.TableTr([dmc.TableTh(each) for each in ("detector", *titles, "difference", "threshold")]))
    return dmc.Table([head, dmc.TableTbody(rows)], striped=True, verticalSpacing=3)


SCORES = Panel(
    "compare-scores",
    "Scores of both",
    "Mean over the samples ± its standard error, on this text and on random tokens; difference: the head less the other.",
    ("model", "text", "head", "other", "detector"),
    scores,
    scores_table,
    scores_python,
    has_figure=False,
)
