"""Scores of rows x columns of the map, in plain torch on any device: what the tiled backend and the lazy map share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from interp_kernels.operands import Operands

TILE_CELLS = 1 << 20
"""Cells of a tile over all its heads: 4 MB in float32. Bounds the memory of everything that walks over the map."""

MIN_ROWS, MAX_ROWS = 16, 128

HIDDEN = torch.finfo(torch.float32).min / 4
"""The score of a hidden key: finite, so that no NaN arises from differences, and below every real score."""

Index = slice | Tensor
"""Rows or columns of the map: a slice with start and stop, or a 1-D int64 tensor of indices."""


@dataclass(frozen=True)
class Block:
    """Some rows of some heads of some sequences: one step of a walk over the map."""

    batch: slice
    kv: slice
    rows: slice
    head: slice

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sequences, query heads, rows."""
        return (
            self.batch.stop - self.batch.start,
            self.head.stop - self.head.start,
            self.rows.stop - self.rows.start,
        )


def blocks(ops: Operands, cells: int = TILE_CELLS) -> Iterator[Block]:
    """Walk over the map in blocks whose rows, times the keys, make about ``cells`` cells.

    Whole sequences go together while they are short, then heads, then rows. Heads are outermost, so that a KV head's keys
    stay in cache while its rows are walked.
    """
    per_head = ops.group * max(1, ops.keys)
    rows = max(1, min(ops.queries, MAX_ROWS, max(MIN_ROWS, cells // per_head)))
    kv = max(1, min(ops.kv_heads, cells // (per_head * rows)))
    batch = max(1, min(ops.batch, cells // (per_head * rows * ops.kv_heads))) if kv == ops.kv_heads else 1
    for b in range(0, ops.batch, batch):
        for h in range(0, ops.kv_heads, kv):
            end = min(h + kv, ops.kv_heads)
            for i in range(0, ops.queries, rows):
                yield Block(
                    batch=slice(b, min(b + batch, ops.batch)),
                    kv=slice(h, end),
                    rows=slice(i, min(i + rows, ops.queries)),
                    head=slice(h * ops.group, end * ops.group),
                )


def rows_sinks(sinks: Tensor, block: Block) -> Tensor:
    """The sinks [Hq] or [B, Hq, Tq] of a block's rows, broadcastable to [b, h, rows]."""
    return sinks[block.head, None] if sinks.ndim == 1 else sinks[block.batch, block.head, block.rows]


def positions(index: Index, offset: int, device: torch.device) -> Tensor:
    """The index tensor of ``index``, plus ``offset``."""
    if isinstance(index, slice):
        return torch.arange(index.start + offset, index.stop + offset, device=device)
    return index + offset


def length(index: Index) -> int:
    return index.stop - index.start if isinstance(index, slice) else index.shape[0]


def is_hidden(scores: Tensor) -> Tensor:
    """Where scores, or scores less their row's maximum, are those of hidden keys. NaN is not: it must show in results."""
    return scores <= HIDDEN / 2


def scores(
    ops: Operands,
    batch: slice,
    kv: slice,
    rows: Index,
    cols: Index,
    out: Tensor | None = None,
    slope: Tensor | None = None,
    hide: bool = True,
) -> Tensor:
    """Masked scores s_ij of a tile, [b, Hq of the KV heads, rows, cols], in the compute dtype.

    Hidden keys get ``HIDDEN``. ``out``: a flat buffer with room for the tile, else one is allocated. ``slope``: such a
    buffer for the derivative of the soft cap, 1 - (capped / c)^2; without a soft cap it is left as it is.
    ``hide``: whether the mask is applied; biases that hide always are.
    """
    dtype = ops.compute_dtype
    q = ops.q[batch, kv.start * ops.group : kv.stop * ops.group][:, :, rows].to(dtype)
    k = ops.k[batch, kv][:, :, cols].to(dtype)
    b, heads, r, width = q.shape
    c = k.shape[2]
    pairs = b * (kv.stop - kv.start)
    q = q.reshape(pairs, ops.group * r, width)
    k = k.reshape(pairs, c, width)
    tile = q.new_empty(pairs * ops.group * r * c) if out is None else out[: pairs * ops.group * r * c]
    tile = tile.view(pairs, ops.group * r, c)
    torch.baddbmm(tile, q, k.transpose(1, 2), beta=0, alpha=ops.scale, out=tile)
    tile = tile.view(b, heads, r, c)
    if ops.softcap is not None:
        tile.div_(ops.softcap).tanh_()
        if slope is not None:
            torch.square(tile, out=slope[: tile.numel()].view(tile.shape)).neg_().add_(1)
        tile.mul_(ops.softcap)
    _add_biases(ops, tile, batch, slice(kv.start * ops.group, kv.stop * ops.group), rows, cols)
    if hide:
        _hide(ops, tile, batch, rows, cols)
    return tile


def _add_biases(ops: Operands, tile: Tensor, batch: slice, head: slice, rows: Index, cols: Index) -> None:
    device = tile.device
    if ops.alibi is not None:
        i, j = positions(rows, ops.offset, device), positions(cols, 0, device)
        distance = (i[:, None] - j[None, :]).abs().to(tile.dtype)
        tile.addcmul_(ops.alibi[head].to(tile.dtype)[:, None, None], distance, value=-1)
    added = []
    if ops.bias is not None:
        of_heads = _select(_select(ops.bias, 0, batch), 1, head)
        added.append(_select(_select(of_heads, 2, rows), 3, cols))
    elif ops.relative_bias is not None:
        i, j = positions(rows, 0, device), positions(cols, 0, device)
        added.append(ops.relative_bias[head][:, j[None, :] - i[:, None] + ops.queries - 1])
    if ops.class_values is not None:
        added.append(_class_bias(ops, tile, batch, head, rows, cols))
    for bias in added:
        tile.add_(bias.to(tile.dtype))
    if added:
        # A bias of -inf hides the key; the sum stays finite so that differences of scores are defined.
        tile.clamp_(min=HIDDEN)


def bias_hides(ops: Operands) -> bool:
    """Whether a bias may hide keys that the mask lets a query see."""
    return any(x is not None for x in (ops.bias, ops.relative_bias, ops.class_values))


def hidden_by_bias(ops: Operands, batch: slice, kv: slice, rows: Index, cols: Index) -> Tensor:
    """Which cells of a tile the biases hide, bool [b, Hq of the KV heads, rows, cols]."""
    head = slice(kv.start * ops.group, kv.stop * ops.group)
    shape = (batch.stop - batch.start, head.stop - head.start, length(rows), length(cols))
    tile = torch.zeros(shape, dtype=ops.compute_dtype, device=ops.q.device)
    _add_biases(ops, tile, batch, head, rows, cols)
    return is_hidden(tile)


def _class_bias(ops: Operands, tile: Tensor, batch: slice, head: slice, rows: Index, cols: Index) -> Tensor:
    """What the keys' classes add to a tile [b, h, rows, cols], broadcastable to it."""
    assert ops.class_values is not None
    assert ops.classes is not None
    of_rows = _select(_select(_select(ops.class_values, 0, batch), 1, head), 2, rows)
    of_keys = _select(_select(_select(ops.classes, 0, batch), 1, head), 2, cols)
    if of_keys.shape[:2] == (1, 1):
        return of_rows[..., of_keys[0, 0]]
    b, h = tile.shape[:2]
    index = of_keys[:, :, None].expand(b, h, of_rows.shape[2], -1)
    return of_rows.expand(b, h, -1, -1).gather(-1, index)


def _select(x: Tensor, dim: int, index: Index) -> Tensor:
    if x.shape[dim] == 1:
        return x
    if isinstance(index, slice):
        return x.narrow(dim, index.start, index.stop - index.start)
    return x.index_select(dim, index)


def _hide(ops: Operands, tile: Tensor, batch: slice, rows: Index, cols: Index) -> None:
    """Write the hidden value where the mask hides the key, touching only columns that the mask may cut."""
    parts: list[tuple[slice, Index]] = [(slice(0, length(cols)), cols)]
    if isinstance(rows, slice) and isinstance(cols, slice):
        lo, hi = ops.mask.open_span(rows.start + ops.offset, rows.stop - 1 + ops.offset, ops.keys)
        lo, hi = max(lo, cols.start), min(hi, cols.stop)
        if lo < hi:
            pieces = (slice(cols.start, lo), slice(hi, cols.stop))
            parts = [(slice(p.start - cols.start, p.stop - cols.start), p) for p in pieces if p.start < p.stop]
    for local, columns in parts:
        visible = visibility(ops, batch, rows, columns)
        tile[..., local].masked_fill_(~visible, HIDDEN)


def visibility(ops: Operands, batch: slice, rows: Index, cols: Index) -> Tensor:
    """m_ij of a tile: bool, broadcastable to [b, 1, rows, cols]."""
    device = ops.q.device
    index = torch.arange(batch.start, batch.stop, device=device)[:, None, None, None]
    i = positions(rows, ops.offset, device)[:, None]
    return ops.mask.allows(i, positions(cols, 0, device), index)
