"""Squares of one head's lazy map, strip by strip: their mean or maximum, and how many of their cells are visible."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from interp.views.weighting import Scales
from interp_kernels import AttentionMap

Op = Literal["mean", "max"]

Progress = Callable[[int, int], None]
"""Called as work goes on with (cells scored, cells in all). What it raises ends the work."""

STRIP_ROWS, STRIP_COLS = 256, 2048
"""Sides of a tile that is scored at once, powers of two: 2 MB in float32."""

PASS_CELLS = 1 << 26
"""Cells of the strip of rows that one pass of ``AttentionMap.pool`` goes over: what happens between two reports."""


@dataclass(frozen=True, eq=False)
class Squares:
    """values [R, C], NaN in squares without a visible cell; counts int64 [R, C], their visible cells."""

    values: Tensor
    counts: Tensor


def pooled(
    one: AttentionMap, cols: slice, block: int, op: Op, scales: Scales, progress: Progress | None = None
) -> Squares:
    """Squares of block x block cells of all rows and some columns of a map of shape (1, 1, n, Tk), begun at row 0 and cols.start.

    mean: over the visible cells; max: the largest of them. ``block`` is a power of two. What scales leave out counts as
    hidden. Cells ahead of what any query of a strip sees are not scored. Memory: some 40 MB, whatever the map's size, and the
    squares, four times.
    """
    rows = slice(0, one.shape[2])
    counted_rows, row_factors = _split(scales.rows)
    counted_cols, col_factors = _split(scales.cols)
    counts = one.count_visible(rows, cols, block, counted_rows=counted_rows, counted_cols=counted_cols)[0, 0]
    report = _Report(progress, scored(one, rows, cols))
    lo, hi = _key_span(one, rows)
    if cols.start <= lo and hi <= cols.stop and cols.start % block == 0:
        values = _by_passes(one, cols, block, op, (row_factors, col_factors), report)
        if op == "mean" and not (counted_rows is None and counted_cols is None):
            # The pass takes the mean over all that is visible; what is left out added 0 to the sum.
            values = values * (one.count_visible(rows, cols, block)[0, 0] / counts.clamp(min=1))
    else:
        values = _by_tiles(one, cols, block, op, (row_factors, col_factors), report)
        values = values / counts.clamp(min=1) if op == "mean" else values
    return Squares(values.float().masked_fill_(counts == 0, torch.nan), counts)


def scored(one: AttentionMap, rows: slice, cols: slice) -> int:
    """Cells of a rectangle that have to be scored: strip by strip, those between the first and the last visible column."""
    total = 0
    for start in range(rows.start, rows.stop, STRIP_ROWS):
        strip = slice(start, min(start + STRIP_ROWS, rows.stop))
        lo, hi = _key_span(one, strip)
        total += (strip.stop - strip.start) * max(0, min(hi, cols.stop) - max(lo, cols.start))
    return total


def reduced(x: Tensor, block: int, op: Op) -> Tensor:
    """Sums or maxima of x [n, w] over squares of block x block cells from its first row and column on; those at its ends are cut.

    Of maxima the elements are at least 0.
    """
    for dim in (0, 1):
        size, n = min(block, x.shape[dim]), x.shape[dim]
        missing = -n % size
        if missing:
            x = torch.nn.functional.pad(x, (0, 0, 0, missing) if dim == 0 else (0, missing))
        x = x.unflatten(dim, (-1, size))
        x = x.sum(dim=dim + 1) if op == "mean" else x.amax(dim=dim + 1)
    return x


class _Report:
    """Says after each piece of work how far it is."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, cells: int) -> None:
        self.done += cells
        if self.progress is not None:
            self.progress(self.done, self.total)


def _key_span(one: AttentionMap, rows: slice) -> tuple[int, int]:
    ops = one.operands
    return ops.mask.key_span(rows.start + ops.offset, rows.stop - 1 + ops.offset, ops.keys)


def _by_passes(
    one: AttentionMap, cols: slice, block: int, op: Op, factors: tuple[Tensor | None, Tensor | None], report: _Report
) -> Tensor:
    """Means over all visible cells, or maxima, by the lazy map's own pass over all columns, for strips of rows."""
    queries, keys = one.shape[2:]
    height = block * max(1, PASS_CELLS // keys // block)
    across = slice(cols.start // block, -(-cols.stop // block))
    of_rows, of_cols = factors
    parts = []
    for start in range(0, queries, height):
        strip = slice(start, min(start + height, queries))
        row_factors = None if of_rows is None else of_rows[strip]
        found = one.of_rows(strip).pool(block, op, row_factors=row_factors, col_factors=of_cols)
        parts.append(found[0, 0, :, across])
        report(scored(one, strip, cols))
    return torch.cat(parts)


def _by_tiles(
    one: AttentionMap, cols: slice, block: int, op: Op, factors: tuple[Tensor | None, Tensor | None], report: _Report
) -> Tensor:
    """Sums or maxima, float64, by tiles that are scaled and pooled one after another."""
    of_rows, of_cols = factors
    shape = (-(-one.shape[2] // block), -(-(cols.stop - cols.start) // block))
    value = torch.zeros(shape, dtype=torch.float64, device=one.lse.device)
    for rows, part in _tiles(one, cols, block):
        tile = one.tile(rows, part)[0, 0]
        if of_rows is not None:
            tile *= of_rows[rows, None]
        if of_cols is not None:
            tile *= of_cols[part]
        down = slice(rows.start // block, -(-rows.stop // block))
        across = slice((part.start - cols.start) // block, -(-(part.stop - cols.start) // block))
        found = reduced(tile, block, op).double()
        value[down, across] = value[down, across] + found if op == "mean" else torch.maximum(value[down, across], found)
        report(tile.numel())
    return value


def _split(scale: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Which rows or columns count, None where all do, and the factors, 0 for those that do not."""
    if scale is None:
        return None, None
    left_out = scale.isnan()
    return (~left_out if bool(left_out.any()) else None), scale.masked_fill(left_out, 0.0)


def _tiles(one: AttentionMap, cols: slice, block: int) -> Iterator[tuple[slice, slice]]:
    """Tiles that hold every visible cell. Both sides begin at a multiple of the block, or divide it: they are powers of two."""
    unit = min(block, STRIP_COLS)
    for start in range(0, one.shape[2], STRIP_ROWS):
        rows = slice(start, min(start + STRIP_ROWS, one.shape[2]))
        lo, hi = _key_span(one, rows)
        lo, hi = max(lo, cols.start), min(hi, cols.stop)
        lo -= (lo - cols.start) % unit
        for j in range(lo, hi, STRIP_COLS):
            yield rows, slice(j, min(j + STRIP_COLS, hi))
