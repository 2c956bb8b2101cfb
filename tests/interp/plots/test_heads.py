"""The grid of a detector's scores as a figure: what each mark says."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from interp.plots.heads import head_grid
from interp.scores import COLUMNS, HeadScores


def made(layers: int = 2, heads: int = 3, **changes: float) -> HeadScores:
    """Scores 0, 1/n, 2/n ... of one detector with a threshold of 0.4."""
    count = layers * heads
    score = np.arange(count) / count
    rows = {
        "layer": np.arange(count) // heads,
        "head": np.arange(count) % heads,
        "detector": "induction",
        "score": score,
        "stderr": 0.01,
        "chance": 0.02,
        "threshold": 0.4,
        "is_above": score > 0.4,
        "samples": 8,
        "share_above": 0.5,
    }
    return HeadScores(pd.DataFrame(rows | changes).astype(COLUMNS), {})


def parts(figure: go.Figure) -> tuple[dict, dict, dict]:
    """Heat map, marks and layout as the browser gets them."""
    content = json.loads(figure.to_json())
    assert [trace["type"] for trace in content["data"]] == ["heatmap", "scatter"]
    return content["data"][0], content["data"][1], content["layout"]


def test_colour_is_the_score_on_a_fixed_range():
    scores = made()
    heat = head_grid(scores, "induction").data[0]
    np.testing.assert_allclose(np.asarray(heat.z), scores.grid("induction"))
    assert (heat.zmin, heat.zmax) == (0.0, 1.0)


def test_heads_above_the_threshold_are_marked():
    _, marks, _ = parts(head_grid(made(), "induction"))
    figure = head_grid(made(), "induction").data[1]
    assert list(zip(figure.y, figure.x, strict=True)) == [(1, 0), (1, 1), (1, 2)]
    assert marks["showlegend"] is False


def test_hovering_names_the_head():
    heat = head_grid(made(), "induction").data[0]
    cells = np.asarray(heat.customdata)
    assert cells[1, 2, 0] == "L1H2"
    assert [float(value) for value in cells[1, 2, 1:]] == [0.01, 0.02, 0.4, 0.5, 8]
    assert "score %{z:.3f} ± %{customdata[1]:.3f}" in heat.hovertemplate


def test_layer_0_is_at_the_top_and_every_cell_in_view():
    _, _, layout = parts(head_grid(made(4, 7), "induction"))
    low, high = layout["yaxis"]["range"]
    assert low >= 3.5
    assert high <= -0.5
    assert layout["xaxis"]["range"] == [-0.5, 6.5]
    assert layout["xaxis"]["title"]["text"] == "head"
    assert layout["yaxis"]["title"]["text"] == "layer"


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (2, 3), (48, 25), (96, 128)])
def test_sizes_stay_readable(layers: int, heads: int):
    layout = head_grid(made(layers, heads), "induction").layout
    assert 200 <= layout.width <= 1200
    assert 150 <= layout.height <= 1200


def test_a_score_that_is_not_defined_is_no_number():
    figure = head_grid(made(stderr=np.nan), "induction")
    heat, _, _ = parts(figure)
    assert heat["hoverongaps"] is False
    undefined = made()
    undefined.frame.loc[0, "score"] = np.nan
    assert np.isnan(np.asarray(head_grid(undefined, "induction").data[0].z)[0, 0])


def test_the_figure_of_the_scores_is_the_same():
    scores = made()
    assert scores.plot("induction").to_json() == head_grid(scores, "induction").to_json()


def test_layers_with_gaps_have_their_own_numbers():
    """Of a hybrid the layers between do not attend."""
    scores = made()
    scores.frame["layer"] = scores.frame["layer"].map({0: 2, 1: 5})
    heat, _, layout = parts(head_grid(scores, "induction"))
    assert [row[1][0] for row in heat["customdata"]] == ["L2H1", "L5H1"]
    assert (layout["yaxis"]["tickvals"], layout["yaxis"]["ticktext"]) == ([0, 1], ["2", "5"])
