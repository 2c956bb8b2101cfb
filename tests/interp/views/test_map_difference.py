"""The difference of two maps is that of the dense maps, place for place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp.errors import InputError
from interp.plots.attention_map import difference_figure
from interp.views import map_difference, region
from interp.views.map_difference import MapDifference
from tests.interp.views.dense_views import case, relative_bound, shown, squares
from tests.interp.words import text_of


@pytest.mark.parametrize("op", ["mean", "max"])
@pytest.mark.parametrize("weighting", ["weights", "value", "no_sink"])
@pytest.mark.parametrize("kind", ["causal", "window", "padded left", "cross", "cut edges"])
def test_it_is_the_difference_of_the_dense_maps(kind: str, weighting: str, op: Any):
    of = case(kind)
    found = map_difference(of.lazy, 2, of.lazy, 1, batch=1, cells=30, op=op, weighting=weighting)
    assert found.first.block == 4
    parts = [squares(shown(of, 1, head, weighting, found.first.sinks), 4, op) for head in (2, 1)]
    np.testing.assert_array_equal(np.isnan(found.values), np.isnan(parts[0] - parts[1]))
    # Either part errs by its own rounding to float32, relative to itself.
    bound = relative_bound(of, 16) * (np.abs(np.nan_to_num(parts[0])) + np.abs(np.nan_to_num(parts[1])))
    assert (np.abs(np.nan_to_num(found.values - (parts[0] - parts[1]))) <= bound).all()


def test_an_edit_is_seen_where_it_acts_and_nowhere_else(own_model, tokenizer):
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    text = text_of(range(5, 17))
    before = model.maps(text)[0]
    with model.edited(interp.edits.cut(heads="L0H1", queries=4, keys=2)):
        after = model.maps(text)[0]
    found = before.difference(1, after)
    assert found.name == "L0H1 less L0H1"
    assert np.isnan(found.values[4, 2])
    changed = np.nan_to_num(found.values) != 0
    assert changed.any()
    assert np.flatnonzero(changed.any(axis=1)).tolist() == [4]
    others = before.difference(2, after)
    assert (np.nan_to_num(others.values) == 0).all()
    assert repr(others).endswith("attention weight; from +0 to +0)")


def test_two_heads_of_one_map_are_told_apart_by_name_and_head(own_model, tokenizer):
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    maps = model.maps("w5 w9 w4 w7")
    found = maps[1].difference(3, other_head=0, rows=(1, 4))
    np.testing.assert_array_equal(
        found.values, maps[1].region(3, rows=(1, 4)).values - maps[1].region(0, rows=(1, 4)).values
    )
    figure = found.plot(dark=True)
    assert figure.layout.title.text == found.name == "L1H3 less L1H0"
    assert list(figure.layout.yaxis.ticktext) == ["w5", "w9", "w4"]
    same: Any = difference_figure(found.first, found.second, maps[1].tokens(), dark=True)
    assert figure == same
    assert maps[1].difference(3, maps[0]).name == "L1H3 less L0H3"


def test_the_table_has_both_numbers_and_leaves_out_what_one_does_not_show():
    wide, narrow = case("causal").lazy, case("window").lazy
    found = map_difference(wide, 0, narrow, 3)
    frame = found.to_frame()
    assert list(frame) == ["query", "query_last", "key", "key_last", "first", "second", "difference"]
    assert len(frame) == (~np.isnan(found.values)).sum() == sum(min(i + 1, 13) for i in range(90))
    row = frame[(frame["query"] == 40) & (frame["key"] == 30)].iloc[0]
    assert row["first"] == found.first.values[40, 30]
    assert row["difference"] == found.values[40, 30]
    assert row["second"] == found.second.values[40, 30]


def test_what_is_seen_in_none_is_said():
    q = torch.ones(1, 1, 3, 2)
    lazy = interp.attend(q, q, q, mask=interp.Mask.from_padding(torch.zeros(1, 3, dtype=torch.bool))).map
    assert "nothing is seen in both" in repr(map_difference(lazy, 0, lazy, 0))


def test_maps_that_cannot_be_compared_are_refused():
    of = case("causal").lazy
    with pytest.raises(
        InputError,
        match=r"^other: expected a map of 90 queries and 90 keys, as the first, got one of 35 and 90; of texts of different "
        "lengths compare profiles",
    ):
        map_difference(of, 0, case("cross").lazy, 0)
    with pytest.raises(InputError, match=r"^other: expected a lazy attention map, .* got int"):
        map_difference(of, 0, 3, 0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"^head: expected a whole number from 0 to 3, got 9"):
        map_difference(of, 0, of, 9)
    with pytest.raises(
        InputError, match=r"^regions: expected two of the same place, .*, and their rows differ: \(0, 90\) and \(0, 9\)"
    ):
        MapDifference(region(of, 0), region(of, 1, rows=(0, 9)))
    without = [region(of, 0, weighting="no_sink", sinks=key) for key in (0, 3)]
    with pytest.raises(InputError, match=r"their sinks differ: \(0,\) and \(3,\)"):
        difference_figure(*without)
