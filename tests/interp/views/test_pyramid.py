"""The levels of a pyramid are what pooling the map gives, and a zoom step scores no more than it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import interp_kernels as ik
from interp.errors import InputError
from interp.views import Pyramid, region, view, work
from tests.interp.views.dense_views import KINDS, case, shown, squares
from tests.interp.views.test_region import WEIGHTINGS, check, default_sink

EPS = float(torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("op", ["mean", "max"])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_level_is_the_dense_map_in_squares(kind: str, weighting: str, op: str):
    of = case(kind)
    sinks = (default_sink(of, 1),) if weighting == "no_sink" else ()
    value = shown(of, 1, 2, weighting, sinks)
    made = Pyramid.build(of.lazy, 2, batch=1, op=op, weighting=weighting, most=30)
    assert made.block == 4
    for n, level in enumerate(made.levels):
        check(level, squares(value, made.block << n, op), 2e-7)
    assert made.levels[-1].shape == (1, 1)


def exact_scores(tokens: int) -> ik.AttentionMap:
    """Scores without rounding, in whatever order they are summed: products of small whole numbers."""
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randint(-2, 3, (1, 1, tokens, 8), generator=draw).float() for _ in range(2))
    return ik.attend(q, k, k, scale=0.25).map


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_maxima_of_coarser_levels_are_those_of_the_map_bit_for_bit(weighting: str):
    lazy = exact_scores(700)
    made = Pyramid.build(lazy, 0, op="max", weighting=weighting, most=400)
    for n, level in enumerate(made.levels[:6]):
        direct = region(lazy, 0, op="max", weighting=weighting, cells=-(-700 // (2 << n)))
        assert direct.block == 2 << n
        np.testing.assert_array_equal(level, direct.values)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_means_of_coarser_levels_are_those_of_the_map_but_for_rounding(weighting: str):
    """Both are sums of n numbers of one sign in float32, over their count: each errs by at most (n + 3) eps."""
    lazy = exact_scores(700)
    made = Pyramid.build(lazy, 0, weighting=weighting, most=400)
    for n, level in enumerate(made.levels[:6]):
        block = 2 << n
        direct = region(lazy, 0, weighting=weighting, cells=-(-700 // block)).values
        np.testing.assert_array_equal(np.isnan(level), np.isnan(direct))
        np.testing.assert_allclose(level, direct, rtol=2 * (block**2 + 3) * EPS)


@pytest.mark.parametrize("op", ["mean", "max"])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_view_is_the_same_from_a_pyramid_and_from_the_map(weighting: str, op: str):
    lazy = exact_scores(300)
    made = Pyramid.build(lazy, 0, op=op, weighting=weighting, most=40)
    assert made.block == 8
    for rows, cols in (((0, 300), (0, 300)), ((3, 20), (5, 30)), ((100, 241), (0, 90)), ((290, 300), (0, 300))):
        for cells in (1, 9, 25):
            direct = region(lazy, 0, rows=rows, cols=cols, cells=cells, op=op, weighting=weighting)
            found = made.region(rows, cols, cells)
            assert (found.rows, found.cols, found.block) == (direct.rows, direct.cols, direct.block)
            assert (found.op, found.weighting, found.bound) == (op, weighting, direct.bound)
            np.testing.assert_allclose(found.values, direct.values, rtol=2 * (direct.block**2 + 3) * EPS)
            assert (view(made, rows=rows, cols=cols, cells=cells).values.shape) == direct.values.shape


def test_work_is_nothing_where_a_level_answers_and_bounded_where_none_does():
    lazy = exact_scores(1000)
    made = Pyramid.build(lazy, 0, most=100)
    assert made.block == 16
    cells = 20
    for side in (1000, 400, 161):
        assert made.work((0, side), (0, side), cells) == 0
    for side in (160, 100, 20):
        found = made.work((600, 600 + side), (0, side), cells)
        assert 0 < found <= (side + made.block) ** 2 <= ((cells + 1) * made.block) ** 2
        assert found == work(lazy, 0, rows=(600, 600 + side), cols=(0, side), cells=cells)
    # Of the whole causal map half is scored, and what strips of 256 rows add at the diagonal.
    assert 500_000 <= work(lazy, 0) <= 500_000 + 1000 * 256 / 2
    assert work(lazy, 0, weighting="no_sink") == 2 * work(lazy, 0)


def test_work_counts_what_is_scored(monkeypatch):
    lazy = exact_scores(1000)
    scored = []
    tile = ik.AttentionMap.tile

    def counting(self, rows, cols):
        found = tile(self, rows, cols)
        scored.append(found.numel())
        return found

    monkeypatch.setattr(ik.AttentionMap, "tile", counting)
    for rows, cols in (((10, 900), (0, 500)), ((600, 700), (30, 60)), ((0, 300), (700, 1000))):
        scored.clear()
        view(lazy, 0, rows=rows, cols=cols, cells=40)
        assert sum(scored) == work(lazy, 0, rows=rows, cols=cols, cells=40)


def test_it_says_how_far_it_is_and_what_is_raised_there_ends_it():
    lazy = exact_scores(9000)
    told: list[tuple[int, int]] = []
    Pyramid.build(lazy, 0, most=100, progress=lambda done, total: told.append((done, total)))
    done, total = zip(*told, strict=True)
    assert len(told) > 1
    assert list(done) == sorted(set(done))
    assert set(total) == {done[-1]} == {work(lazy, 0)}

    class StoppedError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        Pyramid.build(lazy, 0, most=100, progress=stop)


def test_the_base_is_as_fine_as_it_may_be_and_never_the_map_itself():
    lazy = exact_scores(300)
    assert Pyramid.build(lazy, 0).block == 2
    made = Pyramid.build(lazy, 0, most=1)
    assert (made.block, len(made.levels)) == (512, 1)
    assert made.nbytes == 4
    assert "squares of 512 and more" in repr(made)


def test_a_pyramid_has_the_numbers_that_it_was_built_of_and_says_so():
    lazy = exact_scores(300)
    made = Pyramid.build(lazy, 0, weighting="no_sink", sinks=[0, 2])
    assert view(made, 0, weighting="no_sink", sinks=(2, 0)).sinks == (0, 2)
    assert view(lazy, 0, weighting="no_sink", sinks=[0, 2]).sinks == (0, 2)
    with pytest.raises(
        InputError, match=r"Pyramid\(head 0, .*\) was asked for \{'op': 'max', 'sinks': 0\}; build a pyramid"
    ):
        view(made, op="max", sinks=0)
    with pytest.raises(InputError, match="head: expected a query head of the map"):
        view(lazy)
    for bad in (0, 4097, 2.0):
        with pytest.raises(InputError, match="most: expected a whole number from 1 to 4096"):
            Pyramid.build(lazy, 0, most=bad)  # pyright: ignore[reportArgumentType]
