"""The lazy map in plain torch, tile by tile: any device and dtype, and the map weighted by its gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from interp_kernels.backends.tiled.columns import pieces
from interp_kernels.gradient import map_gradient
from interp_kernels.operands import Operands
from interp_kernels.tiles import TILE_CELLS, Block, blocks, is_hidden, scores

DIAGONAL_TILE = 32
"""Rows and columns of the tiles that ``diagonal`` reads: enough for a product to be worth its call."""


class MapTiles:
    """P_ij = exp(s_ij - lse_i), or max(0, P_ij dP_ij), for checked arguments; see ``interp_kernels.map.AttentionMap``."""

    def __init__(self, ops: Operands, lse: Tensor, output_gradient: Tensor | None = None) -> None:
        self.operands, self.lse, self.output_gradient = ops, lse, output_gradient
        self.shape = (ops.batch, ops.heads, ops.queries, ops.keys)

    def cells(self, rows: slice | Tensor, cols: slice) -> Tensor:
        """[B, Hq, rows, cols]."""
        return self._cells(slice(0, self.shape[0]), slice(0, self.operands.kv_heads), rows, cols)[0]

    def diagonal(self, d: int) -> Tensor:
        """[B, Hq, Tq], read off square tiles along the diagonal."""
        ops = self.operands
        out = torch.zeros(self.shape[:3], dtype=self.lse.dtype, device=self.lse.device)
        step = min(DIAGONAL_TILE, max(1, math.isqrt(TILE_CELLS // (ops.batch * ops.heads))))
        for start in range(0, ops.queries, step):
            stop = min(start + step, ops.queries)
            lo, hi = max(start + ops.offset - d, 0), min(stop + ops.offset - d, ops.keys)
            if lo >= hi:
                continue
            rows = slice(lo + d - ops.offset, hi + d - ops.offset)
            tile, _ = self._cells(slice(0, ops.batch), slice(0, ops.kv_heads), rows, slice(lo, hi))
            out[:, :, rows] = tile.diagonal(dim1=-2, dim2=-1)
        return out

    def pool(self, block: int, op: str, rows: Tensor | None = None, cols: Tensor | None = None) -> Tensor:
        """[B, Hq, R, C]. rows [B, Hq, Tq], cols [B, Hq, Tk]: factors of P."""
        b, h, queries, keys = self.shape
        out = torch.zeros(b, h, -(-queries // block), -(-keys // block), dtype=self.lse.dtype, device=self.lse.device)
        # Whole numbers, since float32 rounds a count above 2^24.
        count = torch.zeros(out.shape, dtype=torch.int64, device=out.device) if op == "mean" else None
        for part, cells, p, visible in self._walk():
            if rows is not None:
                p.mul_(rows[part.batch, part.head, part.rows, None])
            if cols is not None:
                p.mul_(cols[part.batch, part.head, None, cells])
            down = slice(part.rows.start // block, -(-part.rows.stop // block))
            across = slice(cells.start // block, -(-cells.stop // block))
            here = (part.batch, part.head, down, across)

            # By slices and not by adding to indices, which on a GPU has no order.
            def squares(x: Tensor, reduce, first_row: int = part.rows.start, first: int = cells.start) -> Tensor:
                return pieces(pieces(x, 2, first_row, block, reduce), 3, first, block, reduce)

            if count is None:
                out[here] = torch.maximum(out[here], squares(p, torch.amax))
            else:
                out[here] += squares(p, torch.sum)
                count[here] += squares(p.copy_(visible), torch.sum).long()
        return out if count is None else out / count.clamp(min=1)

    def topk(self, k: int) -> tuple[Tensor, Tensor]:
        """[B, Hq, Tq, k] twice."""
        shape = (*self.shape[:3], k)
        values = torch.zeros(shape, dtype=self.lse.dtype, device=self.lse.device)
        index = torch.full(shape, -1, dtype=torch.int64, device=self.lse.device)
        for part, cols, p, visible in self._walk():
            at = (part.batch, part.head, part.rows)
            keys = torch.arange(cols.start, cols.stop, device=p.device).expand_as(p)
            keys = keys.masked_fill(~visible, -1)
            # Earlier keys stand first, so a stable sort leaves ties to the lower key.
            merged = torch.cat([values[at], p.masked_fill(~visible, 0.0)], dim=-1)
            merged_keys = torch.cat([index[at], keys], dim=-1)
            order = (
                merged.masked_fill(merged_keys < 0, -1.0).sort(dim=-1, descending=True, stable=True).indices[..., :k]
            )
            values[at], index[at] = merged.gather(-1, order), merged_keys.gather(-1, order)
        return values, index

    def matmul(self, x: Tensor) -> Tensor:
        """x [B, Hq, Tk, C] -> [B, Hq, Tq, C]."""
        b, h, queries, _ = self.shape
        out = torch.zeros(b, h, queries, x.shape[-1], dtype=self.lse.dtype, device=self.lse.device)
        for part, cols, p, _ in self._walk():
            out[part.batch, part.head, part.rows] += p @ x[part.batch, part.head, cols]
        return out

    def rmatmul(self, w: Tensor) -> Tensor:
        """w [B, Hq, Tq, C] -> [B, Hq, C, Tk]."""
        b, h, _, keys = self.shape
        out = torch.zeros(b, h, w.shape[-1], keys, dtype=self.lse.dtype, device=self.lse.device)
        for part, cols, p, _ in self._walk():
            weights = w[part.batch, part.head, part.rows].transpose(-1, -2)
            out[part.batch, part.head, :, cols] += weights @ p
        return out

    def _cells(
        self, batch: slice, kv: slice, rows: slice | Tensor, cols: slice, buffers: tuple[Tensor, ...] = ()
    ) -> tuple[Tensor, Tensor]:
        """What the map holds in a tile, and which of its cells are visible. Everything that is asked of the map comes from here.

        buffers: flat tensors with room for the tile, one for P and one for dP, else they are allocated.
        """
        ops = self.operands
        head = slice(kv.start * ops.group, kv.stop * ops.group)
        tile = scores(ops, batch, kv, rows, cols, out=buffers[0] if buffers else None)
        visible = ~is_hidden(tile)
        lse = self.lse[batch, head][:, :, rows, None]
        # Recomputed scores may exceed the log-sum-exp by rounding; a probability may not exceed 1.
        tile.sub_(lse.masked_fill(lse == -torch.inf, 0.0)).clamp_(max=0.0).exp_()
        if self.output_gradient is not None:
            rows_gradient = self.output_gradient[batch, head][:, :, rows]
            gradient = map_gradient(ops, rows_gradient, batch, kv, cols, out=buffers[1] if buffers else None)
            tile.mul_(gradient).clamp_(min=0.0)
        return tile.masked_fill_(~visible, 0.0), visible

    def _walk(self) -> Iterator[tuple[Block, slice, Tensor, Tensor]]:
        """Every visible tile: its rows and heads, its columns, what the map holds, and which cells are visible.

        A tile is overwritten by the next one.
        """
        ops = self.operands
        buffers: tuple[Tensor, ...] = ()
        for part in blocks(ops):
            first, last = part.rows.start + ops.offset, part.rows.stop - 1 + ops.offset
            lo, hi = ops.mask.key_span(first, last, ops.keys)
            sequences, heads, rows = part.shape
            width = max(128, TILE_CELLS // (sequences * heads * rows))
            for j in range(lo, hi, width):
                cols = slice(j, min(j + width, hi))
                needed = sequences * heads * rows * (cols.stop - cols.start)
                if not buffers or buffers[0].numel() < needed:
                    count = 1 if self.output_gradient is None else 2
                    buffers = tuple(self.lse.new_empty(needed) for _ in range(count))
                tile, visible = self._cells(part.batch, part.kv, part.rows, cols, buffers)
                yield part, cols, tile, visible
