"""Regions of one head's map: against dense maps in float64, over many masks, weightings and sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import interp_kernels as ik
from interp.errors import InputError
from interp.views import region
from interp.views.map_region import MapRegion
from interp.views.region import HeadView, placed
from tests.interp.views.dense_views import KINDS, Case, case, relative_bound, shown, squares
from tests.kernels.test_memory import Allocations

WEIGHTINGS = ("weights", "value", "no_sink")


def check(found: np.ndarray, expected: np.ndarray, relative: float) -> None:
    assert found.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_allclose(found, expected, rtol=relative, atol=1e-37)


def default_sink(of: Case, b: int) -> int:
    return int(np.nonzero(of.visible[b, 0].any(axis=0))[0][0])


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_fits_is_shown_cell_by_cell(kind: str, weighting: str):
    of = case(kind)
    for b, h in ((0, 0), (1, 3)):
        sinks = (default_sink(of, b),) if weighting == "no_sink" else ()
        found = region(of.lazy, h, batch=b, rows=(7, 34), cols=(0, 61), weighting=weighting)
        assert (found.rows, found.cols, found.block, found.is_exact) == ((7, 34), (0, 61), 1, True)
        assert found.sinks == sinks
        assert found.kv_head == h // 2
        check(found.values, shown(of, b, h, weighting, sinks)[7:34, :61], 1e-7)


@pytest.mark.parametrize("op", ["mean", "max"])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_is_shown_in_squares_of_what_is_visible(kind: str, weighting: str, op: str):
    of = case(kind)
    queries, keys = of.p.shape[2:]
    for b, h, cells in ((1, 1, 10), (0, 2, 50)):
        sinks = (default_sink(of, b),) if weighting == "no_sink" else ()
        whole = region(of.lazy, h, batch=b, cells=cells, op=op, weighting=weighting)
        assert (whole.rows, whole.cols) == ((0, queries), (0, keys))
        assert whole.block == {10: 16, 50: 2}[cells]
        value = shown(of, b, h, weighting, sinks)
        check(whole.values, squares(value, whole.block, op), 1e-7)
        part = region(of.lazy, h, batch=b, rows=(9, 30), cols=(19, 70), cells=cells, op=op, weighting=weighting)
        (top, bottom), (left, right), block = part.rows, part.cols, part.block
        assert top <= 9
        assert left <= 19
        assert top % block == left % block == 0
        check(part.values, squares(value[top:bottom, left:right], block, op), 1e-7)


@pytest.mark.parametrize("op", ["mean", "max"])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("kind", ["causal", "window", "padded left", "cut edges", "sink logits", "cross"])
def test_in_float32_it_errs_by_rounding_alone(kind: str, weighting: str, op: str):
    of = case(kind, torch.float32)
    sinks = (default_sink(of, 1),) if weighting == "no_sink" else ()
    value = shown(of, 1, 2, weighting, sinks)
    for cells in (12, 100):
        found = region(of.lazy, 2, batch=1, cells=cells, op=op, weighting=weighting)
        bound = relative_bound(of, found.block**2 + (90 if weighting == "no_sink" else 0))
        check(found.values, squares(value, found.block, op), 2 * bound)


def test_zero_weights_are_numbers_and_hidden_ones_are_not():
    """A weight that vanishes in rounding, beside a key that the query cannot see."""
    k = torch.tensor([0.0, 1e4, 0.0])[None, None, :, None]
    found = region(ik.attend(torch.ones_like(k), k, k).map, 0)
    np.testing.assert_array_equal(found.values, [[1, np.nan, np.nan], [0, 1, np.nan], [0, 1, 0]])
    assert (found.lowest, found.highest) == (0, 1)


def test_without_the_sinks_rows_sum_to_one_and_rows_that_have_nothing_else_are_left_out():
    of = case("causal")
    for sinks in (0, [0], (0, 4, 5)):
        found = region(of.lazy, 1, weighting="no_sink", sinks=sinks)
        chosen = np.atleast_1d(sinks)
        assert found.sinks == tuple(chosen)
        assert np.isnan(found.values[0]).all()
        assert np.isnan(found.values[:, chosen]).all()
        np.testing.assert_allclose(np.nansum(found.values[1:], axis=1), 1, rtol=1e-6)


def test_a_row_that_is_nearly_all_on_the_sink_keeps_its_digits_without_it():
    """1 - P_is has none left in float32: P_is rounds to 1."""
    scores = torch.tensor([30.0, 1.0, 2.0])
    q = torch.ones(1, 1, 3, 1)
    lazy = ik.attend(q, scores[None, None, :, None], q, scale=1.0).map
    found = region(lazy, 0, weighting="no_sink").values
    np.testing.assert_allclose(found[2, 1:], torch.tensor([1.0, 2.0]).softmax(0), rtol=1e-5)
    assert lazy.dense()[0, 0, 2, 0] == 1


def test_with_padding_on_the_left_the_sink_is_the_first_token():
    assert region(case("padded left").lazy, 0, batch=1, weighting="no_sink").sinks == (19,)


def test_fixed_bounds_are_what_no_number_of_the_head_exceeds():
    of = case("causal")
    assert region(of.lazy, 0, rows=(0, 5)).bound == 1
    assert region(of.lazy, 0, weighting="no_sink").bound == 1
    found = region(of.lazy, 3, batch=1, rows=(50, 60), weighting="value")
    assert found.bound == pytest.approx(of.norms[1, 3].max())
    gradient = torch.ones(2, 4, 90, 8, dtype=torch.float64)
    assert np.isnan(region(of.lazy.weighted_by(gradient), 0).bound)


def test_a_map_weighted_by_its_gradient_shows_what_it_holds():
    of = case("causal")
    gradient = torch.randn(2, 4, 90, 8, generator=torch.Generator().manual_seed(3)).double()
    lazy = of.lazy.weighted_by(gradient)
    found = region(lazy, 2, batch=1, cells=30, op="max")
    expected = np.where(of.visible[1, 2], lazy.dense()[1, 2].numpy(), np.nan)
    check(found.values, squares(expected, 4, "max"), 1e-7)
    assert found.label == "weight × gradient"
    with pytest.raises(InputError, match="weighting: 'value' is of attention weights, and this map is weighted"):
        region(lazy, 0, weighting="value")


@given(
    start=st.integers(0, 89),
    length=st.integers(1, 90),
    left=st.integers(0, 89),
    width=st.integers(1, 90),
    cells=st.integers(1, 100),
)
@settings(max_examples=200, deadline=None)
def test_the_block_is_the_least_power_of_two_with_which_both_sides_fit(start, length, left, width, cells):
    asked = HeadView.of(LAZY, 0, 0, "mean", "weights", None)
    rows, cols = (start, min(90, start + length)), (left, min(90, left + width))
    place = placed(asked, rows, cols, cells)
    longest = max(rows[1] - rows[0], cols[1] - cols[0])
    assert place.block.bit_count() == 1
    assert -(-longest // place.block) <= cells
    assert place.block == 1 or -(-longest // (place.block // 2)) > cells
    for (first, stop), (given_first, given_stop) in ((place.rows, rows), (place.cols, cols)):
        assert given_first - place.block < first <= given_first
        assert given_stop <= stop < given_stop + place.block
        assert first % place.block == 0
        assert stop % place.block == 0 or stop == 90
        assert -(-(stop - first) // place.block) <= cells + 1


LAZY = case("causal").lazy


def test_positions_of_queries_are_counted_as_those_of_the_keys():
    assert region(case("cached keys").lazy, 0).first_query == 55
    assert region(case("cross").lazy, 0).first_query == 0
    frame = region(case("cached keys").lazy, 0, rows=(0, 2)).to_frame()
    assert frame["query"].tolist() == [55] * 56 + [56] * 57


def test_the_table_has_a_row_for_every_square_that_is_seen():
    of = case("causal")
    found = region(of.lazy, 1, cells=12, op="max")
    frame = found.to_frame()
    assert list(frame) == ["query", "query_last", "key", "key_last", "value"]
    assert len(frame) == (~np.isnan(found.values)).sum()
    last = frame.iloc[-1]
    assert (last["query"], last["query_last"], last["key"], last["key_last"]) == (88, 89, 88, 89)
    assert last["value"] == np.nanmax(shown(of, 0, 1, "weights")[88:, 88:]).astype(np.float32)


def test_a_region_is_stored_and_read_back_equal(tmp_path):
    found = region(case("window").lazy, 1, cells=12, weighting="no_sink")
    found.save(tmp_path / "it")
    again = MapRegion.load(tmp_path / "it")
    np.testing.assert_array_equal(again.values, found.values)
    assert (again.rows, again.sinks, again.settings) == (found.rows, found.sinks, found.settings)
    assert again.summary() == found.summary()
    assert "squares" not in repr(found)


BAD = [
    ({"head": 4}, "head: expected a whole number from 0 to 3, got 4"),
    ({"head": True}, "head: expected a whole number from 0 to 3, got True"),
    ({"batch": -1}, "batch: expected a whole number from 0 to 1, got -1"),
    ({"rows": (5, 5)}, r"rows: expected \(first, stop\) with 0 <= first < stop <= 90, got \(5, 5\)"),
    ({"cols": (0, 91)}, r"cols: expected \(first, stop\) with 0 <= first < stop <= 90, got \(0, 91\)"),
    ({"cols": "ab"}, r"cols: expected \(first, stop\) with 0 <= first < stop <= 90, got 'ab'"),
    ({"rows": (0.0, 4.0)}, r"rows: expected \(first, stop\)"),
    ({"cells": 0}, "cells: expected a whole number from 1 to 2048, got 0"),
    ({"cells": 1e2}, "cells: expected a whole number from 1 to 2048, got 100.0"),
    ({"op": "sum"}, "op: expected 'mean' or 'max', got 'sum'"),
    ({"weighting": "values"}, r"weighting: there is no 'values'; did you mean 'value'\?"),
    ({"weighting": ["value"]}, r"weighting: there is no \['value'\]"),
    ({"weighting": "without_first"}, "weighting: there is no 'without_first'; a token view calls 'no_sink' so"),
    ({"sinks": 0}, "sinks: these are taken out with weighting='no_sink' alone, got 'weights'"),
    ({"weighting": "no_sink", "sinks": [90]}, r"sinks: expected keys from 0 to 89, such as \[0\], got \[90\]"),
    ({"weighting": "no_sink", "sinks": []}, r"sinks: expected keys from 0 to 89, such as \[0\], got \[\]"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda x: str(x)[:40])
def test_bad_arguments_are_named_with_what_was_expected_and_what_came(arguments: dict, message: str):
    with pytest.raises(InputError, match=f"^{message}"):
        region(LAZY, **{"head": 0, **arguments})


def test_what_is_no_map_is_refused():
    with pytest.raises(InputError, match=r"map: expected a lazy attention map, such as .*, got ndarray"):
        region(np.zeros((4, 4)), 0)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("rows", [None, (100, 5000)], ids=["whole", "part"])
def test_nothing_of_the_size_of_the_map_is_ever_allocated(weighting: str, rows: tuple[int, int] | None):
    q, k, v = (torch.randn(1, 1, 6144, 8, generator=torch.Generator().manual_seed(n)) for n in range(3))
    lazy = ik.attend(q, k, v).map
    with Allocations(q, k, v, lazy.lse) as seen:
        region(lazy, 0, rows=rows, cols=rows, weighting=weighting)
    assert 0 < seen.peak <= 12e6 < 4 * 6144**2 / 10


def test_where_nothing_is_visible_it_is_said():
    ahead = region(LAZY, 1, rows=(0, 4), cols=(50, 54))
    assert ahead.summary() == "head 1, queries 0 to 3, keys 50 to 53: attention weight; nothing is visible"
    assert np.isnan(ahead.highest)
    assert np.isnan(np.asarray(ahead.plot().data[0].z)).all()  # pyright: ignore[reportAttributeAccessIssue]
