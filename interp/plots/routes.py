"""Information-flow routes as a graph over tokens and stages of the residual stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from interp.plots.labels import token_label

if TYPE_CHECKING:
    from interp.flow.routes import Routes

COLOURS = {"attention": "#c2410c", "mlp": "#1d4ed8", "residual": "#6b7280"}
WIDEST = 7.0
NARROWEST = 0.6


def routes_graph(result: Routes) -> go.Figure:
    """The graph, from the input below to the last block above.

    Marks: a column is a token that a route touches, in the order of the text (others are left out, so that columns are not to
    scale); a row is a stage of the residual stream. A line is an edge, the wider the more of the last node flows through it;
    orange is attention (hover in its middle for the heads), blue an MLP, grey the residual connection. A dot is a node, the
    larger the more flows through it; the last one is on top.
    """
    positions = sorted(result.nodes["position"].unique().tolist())
    column = {position: number for number, position in enumerate(positions)}
    figure = go.Figure()
    for kind, colour in COLOURS.items():
        edges = result.edges[result.edges["kind"] == kind]
        ends = ["from_stage", "from_position", "to_stage", "to_position"]
        joined = [(group[ends].iloc[0].tolist(), group) for _, group in edges.groupby(ends, sort=True)]
        is_first = True
        middle: dict[str, list[object]] = {"x": [], "y": [], "text": []}
        # An MLP and the residual connection beside it have the same ends: one is drawn aside.
        aside = 0.12 if kind == "mlp" else 0.0
        for (low, source, high, target), group in joined:
            flow = float(group["flow"].sum())
            x = [column[source], (column[source] + column[target]) / 2 + aside, column[target]]
            figure.add_scatter(
                x=x,
                y=[low, (low + high) / 2, high],
                mode="lines",
                line={"color": colour, "width": NARROWEST + (WIDEST - NARROWEST) * flow, "shape": "spline"},
                opacity=0.75,
                legendgroup=kind,
                name=kind,
                showlegend=is_first,
                hoverinfo="skip",
            )
            is_first = False
            named = "<br>".join(
                f"{head or kind} {share:.3f}" for head, share in zip(group["head"], group["flow"], strict=True)
            )
            middle["x"].append(x[1])
            middle["y"].append((low + high) / 2)
            middle["text"].append(f"{named}<br>of the last node")
        figure.add_scatter(
            **middle,
            mode="markers",
            marker={"size": 10, "opacity": 0, "color": colour},
            hoverinfo="text",
            showlegend=False,
        )
    nodes = result.nodes
    figure.add_scatter(
        x=[column[position] for position in nodes["position"]],
        y=nodes["stage"],
        mode="markers",
        marker={"size": 4 + 12 * nodes["flow"], "color": "#111827"},
        text=[
            f"{token_label(token)} at {position}<br>{_stage(stage)}<br>{flow:.3f} of the last node"
            for stage, position, token, flow in nodes.itertuples(index=False)
        ],
        hoverinfo="text",
        showlegend=False,
    )
    stages = range(2 * result.blocks + 1)
    return figure.update_layout(
        template="plotly_white",
        xaxis={
            "tickvals": list(column.values()),
            "ticktext": [f"{token_label(result.tokens[position])}<br>{position}" for position in positions],
            "showgrid": False,
            "zeroline": False,
        },
        yaxis={
            "tickvals": list(stages),
            "ticktext": [_stage(stage) for stage in stages],
            "showgrid": True,
            "zeroline": False,
        },
        width=max(480, min(1600, 64 * len(positions) + 240)),
        height=max(320, 52 * len(stages) + 120),
        margin={"l": 110, "r": 20, "t": 20, "b": 60},
        legend={"orientation": "h", "y": 1.06},
    )


def _stage(stage: int) -> str:
    if stage == 0:
        return "input"
    return f"{'after' if stage % 2 == 0 else 'attention'} {(stage - 1) // 2}"
