"""Which cells of the map are visible, and how many of each square: from the mask and the biases, without scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from interp_kernels.backends.tiled.columns import pieces
from interp_kernels.operands import Operands
from interp_kernels.tiles import TILE_CELLS, bias_hides, hidden_by_bias, visibility

ROWS = 128
"""Rows of a strip: of a causal map so many columns beside its diagonal are looked at, cell by cell."""


def visible(ops: Operands, rows: slice, cols: slice) -> Tensor:
    """bool [B, Hq, rows, cols]."""
    batch = slice(0, ops.batch)
    seen = visibility(ops, batch, rows, cols)
    if bias_hides(ops):
        seen = seen & ~hidden_by_bias(ops, batch, slice(0, ops.kv_heads), rows, cols)
    return seen.expand(ops.batch, ops.heads, rows.stop - rows.start, cols.stop - cols.start)


def count_visible(
    ops: Operands,
    rows: slice,
    cols: slice,
    down: int,
    across: int,
    counted_rows: Tensor | None = None,
    counted_cols: Tensor | None = None,
) -> Tensor:
    """int64 [B, Hq, R, C], over squares of down x across cells that begin at rows.start and cols.start.

    counted_rows, counted_cols: bool, of the rectangle; None: all count.
    """
    differs = bias_hides(ops)
    shape = (-(-(rows.stop - rows.start) // down), -(-(cols.stop - cols.start) // across))
    count = torch.zeros(ops.batch, ops.heads if differs else 1, *shape, dtype=torch.int64, device=ops.q.device)
    if 0 in shape:
        return count.expand(-1, ops.heads, -1, -1)
    of_rows = counted_rows if counted_rows is not None else _all(rows, count.device)
    of_cols = counted_cols if counted_cols is not None else _all(cols, count.device)
    for strip, columns, is_open in _parts(ops, rows, cols, count.shape[0] * count.shape[1]):
        local = slice(strip.start - rows.start, strip.stop - rows.start)
        left = slice(columns.start - cols.start, columns.stop - cols.start)
        here = (
            ...,
            slice(local.start // down, -(-local.stop // down)),
            slice(left.start // across, -(-left.stop // across)),
        )
        if is_open:
            high, wide = of_rows[local, None].long(), of_cols[left][None]
            wide = wide if ops.mask.keep is None else wide & ops.mask.keep[:, columns]
            wide = pieces(wide.long(), 1, left.start, across, torch.sum)[:, None, None]
            count[here] += pieces(high, 0, local.start, down, torch.sum) * wide
            continue
        seen = visible(ops, strip, columns)[:, : count.shape[1]]
        if counted_rows is not None or counted_cols is not None:
            seen = seen & of_rows[local, None] & of_cols[left]
        # float32 holds the counts of a part exactly: it has at most 2^24 cells of a head.
        seen = pieces(seen.to(torch.float32), 2, local.start, down, torch.sum)
        count[here] += pieces(seen, 3, left.start, across, torch.sum).long()
    return count.expand(-1, ops.heads, -1, -1)


def _all(index: slice, device: torch.device) -> Tensor:
    return torch.ones(index.stop - index.start, dtype=torch.bool, device=device)


def _parts(ops: Operands, rows: slice, cols: slice, heads: int) -> Iterator[tuple[slice, slice, bool]]:
    """The rectangle in strips of rows and parts of columns, and whether all of a part's cells are visible but for padding.

    Outside of the parts nothing is.
    """
    mask = replace(ops.mask, keep=None)
    height = max(1, min(ROWS, TILE_CELLS // heads))
    width = max(1, TILE_CELLS // (heads * height))
    for start in range(rows.start, rows.stop, height):
        strip = slice(start, min(start + height, rows.stop))
        first, last = strip.start + ops.offset, strip.stop - 1 + ops.offset
        lo, hi = _within(cols, *mask.key_span(first, last, ops.keys))
        open_lo, open_hi = (lo, lo) if bias_hides(ops) else _within(cols, *mask.open_span(first, last, ops.keys))
        if open_lo >= open_hi:
            open_lo = open_hi = lo
        else:
            yield strip, slice(open_lo, open_hi), True
        for left, right in ((lo, open_lo), (open_hi, hi)):
            for j in range(left, right, width):
                yield strip, slice(j, min(j + width, right)), False


def _within(cols: slice, lo: int, hi: int) -> tuple[int, int]:
    lo = max(lo, cols.start)
    return lo, max(lo, min(hi, cols.stop))
