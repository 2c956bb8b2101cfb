"""What a figure of a map says about the numbers that it shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from interp.errors import InputError
from interp.plots.attention_map import difference_figure, map_figure
from interp.views import region
from tests.interp.views.dense_views import case


def subtitle(figure: Any) -> str:
    return figure.layout.title.subtitle.text


def test_the_line_under_the_title_says_what_a_square_is_and_what_is_left_out():
    lazy = case("causal").lazy
    assert subtitle(region(lazy, 1, rows=(0, 20), cols=(0, 20)).plot()) == "single cells · grey: not visible"
    assert subtitle(region(lazy, 1, cells=30).plot()).startswith("squares of 4 × 4: mean of visible cells ·")
    assert subtitle(region(lazy, 1, cells=30, op="max").plot()).startswith("squares of 4 × 4: max ·")
    without = region(lazy, 1, weighting="no_sink", sinks=[0, 7])
    assert "grey: not visible, left out (keys 0, 7)" in subtitle(without.plot())
    assert without.plot().data[0].colorbar.title.text == "weight without the sinks"


def test_numbers_above_the_range_have_a_colour_of_their_own_which_the_bar_names():
    shown = region(case("causal").lazy, 1)
    figure: Any = map_figure(shown, colours=(0, 0.25))
    heat = figure.data[0]
    assert f"clipped at 0.25 (highest {shown.highest:.3g})" in subtitle(figure)
    assert heat.colorbar.ticktext[-1] == "above 0.25"
    place, colour = heat.colorscale[-1]
    assert (place, colour) == (1.0, "#e8590c")
    # The band begins where the range ends.
    assert heat.zmin + heat.colorscale[-2][0] * (heat.zmax - heat.zmin) == pytest.approx(0.25)
    whole: Any = map_figure(shown)
    assert whole.data[0].zmax == shown.highest
    assert "#e8590c" not in {each for _, each in whole.data[0].colorscale}
    assert "clipped" not in subtitle(whole)


def test_numbers_below_the_range_are_said_to_look_alike():
    assert "all below 0.1 alike" in subtitle(map_figure(region(case("causal").lazy, 1), colours=(0.1, 1)))


def test_fixed_colours_end_at_what_nothing_exceeds():
    figure: Any = map_figure(region(case("causal").lazy, 1), colours="fixed")
    assert (figure.data[0].zmin, figure.data[0].zmax) == (0, 1)
    assert "fixed colours" in subtitle(figure)


@pytest.mark.parametrize(
    "colours",
    ["fits", (1, 0), (0, 0), (-1, 1), (0, float("nan")), (0, float("inf")), (0,), 3, None, (False, True), "fx"],
)
def test_colours_that_are_no_range_are_refused(colours: Any):
    with pytest.raises(InputError, match=r"^colours: expected 'fit', 'fixed' or two ends with 0 <= low < high, got "):
        map_figure(region(case("causal").lazy, 1), colours=colours)


def test_ends_may_be_numbers_of_numpy():
    figure: Any = map_figure(region(case("causal").lazy, 1), colours=(np.float32(0), np.float64(0.5)))
    assert figure.data[0].colorbar.tickvals[-1] == 0.5


def test_tokens_of_a_part_of_the_text_are_refused():
    shown = region(case("causal").lazy, 1, rows=(10, 20))
    with pytest.raises(InputError, match=r"^tokens: expected one for each of the 90 queries of the map, got 10"):
        map_figure(shown, [str(n) for n in range(10)])
    figure: Any = shown.plot([f"t{n}" for n in range(90)], title="<b>")
    assert list(figure.layout.yaxis.ticktext) == [f"t{n}" for n in range(10, 20)]
    assert figure.layout.title.text == "&lt;b&gt;"


def test_what_is_no_region_is_refused():
    of = case("causal")
    for draw in (map_figure, lambda it: difference_figure(region(of.lazy, 0), it)):
        with pytest.raises(
            InputError, match=r"^region: expected a MapRegion, as map\.region\(head\) gives it, got AttentionMap"
        ):
            draw(of.lazy)


def test_few_positions_are_marked_once_each():
    figure: Any = region(case("causal").lazy, 1, rows=(0, 4), cols=(0, 30)).plot()
    assert figure.layout.yaxis.dtick == 1
    assert figure.layout.xaxis.dtick is None
