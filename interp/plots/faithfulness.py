"""Correlations of methods with what removing tokens does, and with gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from interp.plots.labels import token_label

if TYPE_CHECKING:
    from interp.flow.faithfulness_result import Faithfulness

COLOURS = {"ablation": "#1f5fa8", "gradient_norm": "#c2571a", "gradient_x_input": "#5a8f3c"}
LANE = 0.24
"""Distance of the lanes of the references within a method's row."""


def correlations_plot(result: Faithfulness) -> go.Figure:
    """A row a method, a colour a reference.

    Marks: the diamond is the mean Spearman correlation over examples, its bar one standard error each way, the faint dots single
    examples. The line at 0 is no agreement; 1 is the same order of the tokens, -1 the opposite. A pair without a mark has no
    defined correlation, or is a method with itself.
    """
    table = result.table()
    methods = list(dict.fromkeys(table["method"]))
    names = [token_label(method, 40) for method in methods]
    row = {method: number for number, method in enumerate(methods)}
    figure = go.Figure()
    for number, (reference, colour) in enumerate(COLOURS.items()):
        shift = (number - (len(COLOURS) - 1) / 2) * LANE
        single = result.correlations[result.correlations["reference"] == reference]
        figure.add_scatter(
            x=single["spearman"],
            y=[row[method] + shift for method in single["method"]],
            mode="markers",
            marker={"color": colour, "size": 5, "opacity": 0.3},
            customdata=np.column_stack([single["example"], single["tokens"]]),
            hovertemplate="example %{customdata[0]}, %{customdata[1]} tokens<br>%{x:.3f}<extra></extra>",
            showlegend=False,
        )
        mean = table[table["reference"] == reference]
        figure.add_scatter(
            x=mean["mean"],
            y=[row[method] + shift for method in mean["method"]],
            error_x={"type": "data", "array": mean["stderr"].fillna(0), "color": colour},
            mode="markers",
            name=reference.replace("_", " "),
            marker={"color": colour, "size": 10, "symbol": "diamond"},
            customdata=np.column_stack([mean["stderr"], mean["examples"]]),
            hovertemplate="mean %{x:.3f} ± %{customdata[0]:.3f} over %{customdata[1]} examples<extra></extra>",
        )
    figure.add_vline(x=0, line={"color": "#888888", "width": 1})
    return figure.update_layout(
        template="plotly_white",
        xaxis={"title": "Spearman correlation over tokens", "range": [-1.05, 1.05], "zeroline": False},
        yaxis={
            "tickvals": list(range(len(methods))),
            "ticktext": [name.replace("_", " ") for name in names],
            "range": [len(methods) - 0.5, -0.5],
            "zeroline": False,
        },
        legend={"title": {"text": "compared with"}},
        width=760,
        height=110 + 70 * len(methods),
        margin={"l": 130, "r": 20, "t": 20, "b": 50},
    )
