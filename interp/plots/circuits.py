"""What heads' value-output circuits do, as grids of heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from interp.plots.heads import value_grid

if TYPE_CHECKING:
    from interp.heads.maps_score import MapsScores
    from interp.heads.ov_copying import OVCopying


def copying_grid(result: OVCopying) -> go.Figure:
    """The copying score of each head: a row a layer (0 at the top), a column a query head.

    Marks: red copies (1: every direction raises its own tokens), blue suppresses (-1), white does neither, whatever the model.
    Grey: not defined. Small grids show the number. Hovering gives the mean rank of a token's own logit (0 highest, 0.5 chance)
    and the share of tokens with their own logit among the largest.
    """
    hover = (
        "<b>%{customdata[0]}</b><br>copying score %{z:+.3f}<br>rank of the own logit %{customdata[1]:.3f} ± %{customdata[2]:.3f} "
        f"(0 highest)<br>own logit in the top {result.k}: %{{customdata[3]:.1%}}<extra></extra>"
    )
    columns = [result.own_rank, result.own_stderr, result.top_share]
    return value_grid(result.scores, result.layers, columns, hover, (-1.0, 1.0), "RdBu_r")


def maps_grid(result: MapsScores) -> go.Figure:
    """The share of pairs with the target in the top k of each head: a row a layer (0 at the top), a column a query head.

    Marks: colour is the share from 0 to 1, for every relation alike. Grey: the layer has no such head. Small grids show the
    number. Hovering gives the median rank of the targets.
    """
    hover = (
        f"<b>%{{customdata[0]}}</b><br>target in the top {result.k}: %{{z:.1%}} (chance {result.chance:.2%})"
        "<br>median rank %{customdata[1]}<extra></extra>"
    )
    return value_grid(result.scores, result.layers, [result.ranks], hover, (0.0, 1.0), "Viridis")
