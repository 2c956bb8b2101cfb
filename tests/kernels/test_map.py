"""The lazy map: every method against the oracle's dense map, over random masks and features and over many tiles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import interp_kernels as ik
from interp_kernels.backends import reference
from interp_kernels.backends.tiled import mapping, sight
from interp_kernels.tiles import blocks
from tests.kernels.cases import Case, cases, randomised
from tests.kernels.oracle import Sight

close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)


@contextmanager
def smallest_tiles() -> Iterator[None]:
    """Walks over the map take 16 rows of one KV head and 128 keys at a time."""
    with (
        mock.patch.object(mapping, "TILE_CELLS", 1),
        mock.patch.object(sight, "ROWS", 5),
        mock.patch.object(sight, "TILE_CELLS", 200),
        mock.patch.object(mapping, "blocks", partial(blocks, cells=1)),
    ):
        yield


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()


def weighted(p: np.ndarray, gradient: torch.Tensor, v: torch.Tensor) -> np.ndarray:
    """max(0, P_ij dP_ij), one cell at a time."""
    value = np.zeros(p.shape)
    group = p.shape[1] // v.shape[1]
    for b, h, i, j in np.ndindex(*p.shape):
        change = gradient[b, h, i].double().numpy() @ v[b, h // group, j].double().numpy()
        value[b, h, i, j] = max(0.0, p[b, h, i, j] * change)
    return value


def check_all(case: Case, by_gradient: bool, block: int, k: int, index: list[int], start: int, stop: int) -> None:
    golden = case.golden()
    p, visible = golden.p, golden.visible
    batch, heads, queries, keys = p.shape
    lazy = case.attend("cpu").map
    if by_gradient:
        gradient = 10 * normal(batch, heads, queries, case.v.shape[-1])
        lazy, p = lazy.weighted_by(gradient), weighted(p, gradient, case.v)
    assert lazy.shape == p.shape
    close(lazy.dense(), p)
    index = [i % (2 * queries) - queries for i in index]
    close(lazy.rows(index), p[:, :, index])
    close(lazy.rows(index[0]), p[:, :, index[:1]])
    close(lazy.rows(torch.tensor(index, dtype=torch.int32)), p[:, :, index])
    close(lazy.tile(slice(start, stop), slice(stop, None)), p[:, :, start:stop, stop:])
    close(lazy.tile(slice(-2, None), slice(None, -1)), p[:, :, -2:, :-1])
    for d in (-keys, -1, 0, 1, start, keys + queries):
        close(lazy.diagonal(d), diagonal(p, d, golden.offset))
    close(lazy.pool(block), pooled(p, visible, block, "mean"))
    close(lazy.pool(block, op="max"), pooled(p, visible, block, "max"))
    for shape, at in [
        ((), (None, None)),
        ((batch,), (slice(None), None)),
        ((batch, heads), (slice(None), slice(None))),
    ]:
        r, c = normal(*shape, queries).abs(), normal(*shape, keys).abs()
        c[..., 0] = 0
        of_rows, of_cols = r.numpy()[(*at, ..., None)], c.numpy()[(*at, None, slice(None))]
        close(lazy.pool(block, row_factors=r), pooled(p * of_rows, visible, block, "mean"))
        close(
            lazy.pool(block, "max", row_factors=r, col_factors=c), pooled(p * of_rows * of_cols, visible, block, "max")
        )
        close(lazy.pool(block, col_factors=c), pooled(p * of_cols, visible, block, "mean"))
    check_topk(lazy, p, visible, k)
    for shape in [(keys, 3), (batch, keys, 1), (batch, heads, keys, 2), (batch, 1, keys, 2)]:
        x = normal(*shape)
        spread = np.broadcast_to(x.numpy() if x.ndim != 3 else x.numpy()[:, None], (batch, heads, keys, shape[-1]))
        close(lazy.matmul(x), p @ spread)
    for shape in [(queries,), (batch, queries), (batch, heads, queries)]:
        w = normal(*shape)
        spread = np.broadcast_to(w.numpy() if w.ndim != 2 else w.numpy()[:, None], (batch, heads, queries))
        close(lazy.rmatmul(w), (spread[..., None] * p).sum(axis=2))
    for shape in [(batch, heads, queries, 3), (1, heads, queries, 1)]:
        w = normal(*shape)
        close(lazy.rmatmul(w), p.swapaxes(-1, -2) @ np.broadcast_to(w.numpy(), (batch, heads, queries, shape[-1])))
    check_sight(lazy, visible, start, stop, block)
    some = slice(min(start, queries - 1), min(start, queries - 1) + 1 + stop)
    part = lazy.of_rows(some)
    assert part.shape == (batch, heads, min(some.stop, queries) - some.start, keys)
    close(part.dense(), p[:, :, some])
    close(part.pool(block), pooled(p[:, :, some], visible[:, :, some], block, "mean"))
    close(part.diagonal(start), diagonal(p, start, golden.offset)[:, :, some])
    check_sight(part, visible[:, :, some], 0, stop, block)
    for b, h in np.ndindex(batch, heads):
        one = lazy.head(b, h)
        assert one.shape == (1, 1, queries, keys)
        close(one.of_rows(some).dense()[0, 0], p[b, h, some])
        np.testing.assert_array_equal(one.visible(some, slice(None))[0, 0], visible[b, h, some])
        close(one.dense()[0, 0], p[b, h])
        close(lazy.head(b - batch, h - heads).rmatmul(torch.ones(queries))[0, 0], p[b, h].sum(axis=0))
        close(reference.run(one.operands, ())[1][0, 0], golden.lse[b, h])


def check_sight(lazy: ik.AttentionMap, visible: np.ndarray, start: int, stop: int, block: int) -> None:
    """Which cells of a rectangle are seen, and how many of each square."""
    rows, cols = slice(start, None), slice(stop, start + stop + 7)
    seen = visible[:, :, rows, cols]
    np.testing.assert_array_equal(lazy.visible(rows, cols), seen)
    whole = slice(None), slice(None)
    sides = [(whole, visible, block), (whole, visible, (1, lazy.shape[3])), (whole, visible, (lazy.shape[2], 1))]
    for rectangle, cells, size in [*sides, ((rows, cols), seen, 1), ((rows, cols), seen, (3, block))]:
        down, across = size if isinstance(size, tuple) else (size, size)
        count = lazy.count_visible(*rectangle, size)
        assert count.dtype == torch.int64
        np.testing.assert_array_equal(count, squares(cells, down, across))
    for of_rows, of_cols in ((normal(lazy.shape[2]) > 0, None), (normal(lazy.shape[2]) > 0, normal(lazy.shape[3]) > 0)):
        counts = visible & of_rows.numpy()[:, None] & (True if of_cols is None else of_cols.numpy())
        count = lazy.count_visible(rows, cols, block, counted_rows=of_rows, counted_cols=of_cols)
        np.testing.assert_array_equal(count, squares(counts[:, :, rows, cols], block, block))


def squares(cells: np.ndarray, down: int, across: int) -> np.ndarray:
    """How many cells of each square hold True."""
    count = np.zeros((*cells.shape[:2], -(-cells.shape[2] // down), -(-cells.shape[3] // across)), np.int64)
    b, h, i, j = np.nonzero(cells)
    np.add.at(count, (b, h, i // down, j // across), 1)
    return count


def check_topk(lazy: ik.AttentionMap, p: np.ndarray, visible: np.ndarray, k: int) -> None:
    values, found = (x.numpy() for x in lazy.topk(k))
    assert values.shape == found.shape == (*p.shape[:3], k)
    for at in np.ndindex(*p.shape[:3]):
        keys = np.flatnonzero(visible[at])
        best = keys[np.argsort(-p[at][keys], kind="stable")][:k]
        assert (found[at][best.size :] == -1).all()
        assert (values[at][best.size :] == 0).all()
        close(values[at][: best.size], p[at][best])
        # Which of two keys comes first may differ where their probabilities are equal but for rounding.
        chosen = found[at][: best.size]
        assert visible[at][chosen].all()
        assert np.unique(chosen).size == chosen.size
        close(p[at][chosen], p[at][best])


def diagonal(p: np.ndarray, d: int, offset: int) -> np.ndarray:
    value = np.zeros(p.shape[:3])
    for row in range(p.shape[2]):
        if 0 <= row + offset - d < p.shape[3]:
            value[:, :, row] = p[:, :, row, row + offset - d]
    return value


def pooled(p: np.ndarray, visible: np.ndarray, block: int, op: str) -> np.ndarray:
    batch, heads, queries, keys = p.shape
    value = np.zeros((batch, heads, -(-queries // block), -(-keys // block)))
    for b, h, i, j in np.ndindex(*value.shape):
        square = (b, h, slice(i * block, (i + 1) * block), slice(j * block, (j + 1) * block))
        if visible[square].any():
            value[b, h, i, j] = p[square].sum() / visible[square].sum() if op == "mean" else p[square].max()
    return value


options = {
    "by_gradient": st.booleans(),
    "block": st.integers(1, 30),
    "k": st.integers(1, 30),
    "index": st.lists(st.integers(0, 1000), min_size=1, max_size=4),
    "start": st.integers(0, 20),
    "stop": st.integers(0, 20),
}


@randomised(80)
@given(case=cases(probes=False), **options)
def test_every_method_agrees_with_the_oracle(case: Case, **given_options) -> None:
    check_all(case, **given_options)


@randomised(12)
@given(case=cases(long=True, probes=False), **options)
def test_every_method_agrees_with_the_oracle_over_many_tiles(case: Case, **given_options) -> None:
    with smallest_tiles():
        check_all(case, **given_options)


def featured(queries: int = 40, keys: int = 44) -> Case:
    """Padding, a window, sinks, groups of heads and a softcap in one call."""
    sight_keep = torch.ones(2, keys, dtype=torch.bool)
    sight_keep[1, :7] = False
    mask = ik.Mask.causal(window=23) & ik.Mask.from_padding(sight_keep)
    case = Case(
        q=3 * normal(2, 4, queries, 20),
        k=normal(2, 2, keys, 20),
        v=normal(2, 2, keys, 8),
        mask=mask,
        sight=Sight(keys - queries, causal=True, windows=(23,), keeps=(sight_keep.numpy(),)),
        softcap=20.0,
        sinks=normal(4),
    )
    return case


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_ties_go_to_the_lower_key_in_topk_and_none_is_listed_beyond_the_visible_keys(dtype: torch.dtype) -> None:
    q, k = torch.zeros(2, 1, 1, 300, 4, dtype=dtype)
    lazy = ik.attend(q, k, k).map
    with smallest_tiles():
        values, index = lazy.topk(5)
    assert index[0, 0, 299].tolist() == [0, 1, 2, 3, 4]
    assert index[0, 0, 2].tolist() == [0, 1, 2, -1, -1]
    torch.testing.assert_close(values[0, 0, 2], torch.tensor([1 / 3, 1 / 3, 1 / 3, 0, 0], dtype=dtype))


def test_a_visible_key_whose_probability_vanishes_is_still_listed_by_topk() -> None:
    k = torch.tensor([0.0, 1e4, 0.0])[None, None, :, None]
    values, index = ik.attend(torch.ones_like(k), k, k).map.topk(3)
    assert index[0, 0].tolist() == [[0, -1, -1], [1, 0, -1], [1, 0, 2]]
    assert values[0, 0].tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 0]]


def test_weighted_by_the_gradient_it_is_what_autograd_gives_for_the_map() -> None:
    """dP of a scalar of the output, by autograd through the dense map, as the authors of the method take it."""
    case = featured()
    attended = case.attend("cpu")
    p = attended.map.dense().requires_grad_()
    (p @ case.v.repeat_interleave(2, dim=1)).sin().sum().backward()
    gradient = attended.output.cos()
    assert p.grad is not None
    expected = (p * p.grad).clamp(min=0).detach()
    lazy = attended.map.weighted_by(gradient)
    close(lazy.dense(), expected)
    assert (expected > 0).float().mean() > 0.1
    relevance = expected.mean(dim=1)
    close(lazy.rmatmul(torch.full((2, 4, 40), 0.25)).sum(dim=1), relevance.sum(dim=1))


def test_weighted_rows_without_keys_are_zero_and_hidden_cells_stay_zero_for_any_gradient() -> None:
    q, big = torch.ones(1, 1, 3, 2), 2.0**100
    lazy = ik.attend(q, q, q, mask=ik.Mask.causal(offset=-1)).map.weighted_by(torch.full((1, 1, 3, 2), big))
    expected = torch.tensor([[0, 0, 0], [2 * big, 0, 0], [big, big, 0]])
    torch.testing.assert_close(lazy.dense()[0, 0], expected)
    values, index = lazy.topk(2)
    assert index[0, 0].tolist() == [[-1, -1], [0, -1], [0, 1]]
    torch.testing.assert_close(values[0, 0], expected[:, :2])


def test_a_weighted_map_keeps_no_graph_and_says_what_it_is() -> None:
    lazy = ik.attend(*(torch.zeros(1, 2, 1000, 50) for _ in range(3))).map
    gradient = torch.zeros(1, 2, 1000, 50, requires_grad=True)
    one = lazy.weighted_by(gradient)
    assert one.output_gradient is not None
    assert not one.output_gradient.requires_grad
    assert repr(one.head(0, 1)) == (
        "AttentionMap(B=1, Hq=1, Tq=1000, Tk=1000, torch.float32, lazy, weighted by its gradient, 0.8 MB)"
    )


def test_rows_sum_to_one_or_to_less_with_a_sink() -> None:
    case = featured().rounded(torch.float32)
    ones = torch.ones(44, 1)
    sums = case.attend("cpu").map.matmul(ones)[..., 0]
    np.testing.assert_allclose(sums, case.golden().p.sum(axis=-1), atol=1e-5)
    assert sums.min() < 0.9
    without = replace(case, sinks=None).attend("cpu").map.matmul(ones)[..., 0]
    seen = case.golden().visible.any(axis=-1)
    np.testing.assert_allclose(without, seen.astype(float), atol=1e-5)


def test_it_says_what_it_is_without_computing() -> None:
    lazy = ik.attend(*(torch.zeros(1, 2, 1000, 50) for _ in range(3))).map
    assert repr(lazy) == "AttentionMap(B=1, Hq=2, Tq=1000, Tk=1000, torch.float32, lazy, 1.2 MB)"
