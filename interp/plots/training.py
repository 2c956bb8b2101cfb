"""The demo model's training curve: the phase change of Olsson et al. (arXiv 2209.11895)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.errors import InputError

LOSSES = {
    "first_copy_loss": "first copy of a random span",
    "second_copy_loss": "second copy",
    "held_out_loss": "held-out prose",
}
HEADS_SHOWN = 4


def training_curve(table: str | Path | pd.DataFrame) -> go.Figure:
    """Losses (nats per token) above, induction scores of the strongest heads below, over optimisation steps.

    table: the CSV that `interp train-demo` writes (training_curve.csv), or a DataFrame of your own with the same columns; it may
    lack held_out_loss. Induction heads and the fall of the loss on the second copy appear together: that is the
    phase change.

    Raises:
        InputError: there is no such file, or it lacks the columns.
    """
    if isinstance(table, pd.DataFrame):
        frame, table = table, "the table"
    else:
        try:
            frame = pd.read_csv(table)
        except (OSError, ValueError) as error:
            raise InputError(f"{table} cannot be read as a training curve: {error}") from error
    heads = [str(column) for column in frame if str(column).startswith("induction_L")]
    missing = [column for column in ("step", *LOSSES) if column not in (*frame, "held_out_loss")]
    if missing or not heads:
        raise InputError(f"{table} is no training curve: it lacks {', '.join(missing) or 'induction scores'}")
    strongest = frame[heads].iloc[-1].sort_values(ascending=False).index[:HEADS_SHOWN]
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    for column, name in LOSSES.items():
        if column not in frame:
            continue
        figure.add_scatter(x=frame["step"], y=frame[column], name=name, mode="lines", row=1, col=1)
    for column in strongest:
        name = str(column).removeprefix("induction_")
        figure.add_scatter(x=frame["step"], y=frame[column], name=name, mode="lines", legend="legend2", row=2, col=1)
    figure.update_yaxes(title="loss, nats per token", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title="induction score", range=[0, 1], row=2, col=1)
    figure.update_xaxes(title="step", row=2, col=1)
    figure.update_layout(
        template="plotly_white",
        width=760,
        height=560,
        margin={"l": 60, "r": 200, "t": 20, "b": 50},
        legend={"title": {"text": "loss on"}, "y": 1.0},
        legend2={"title": {"text": "head"}, "y": 0.42, "x": 1.02},
    )
    return figure
