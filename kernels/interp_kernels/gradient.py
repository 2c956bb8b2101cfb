"""Gradients of attention in plain torch, tile by tile: O(T) memory, the same bits run after run, on any device.

With P recomputed as exp(s - lse), dO the gradient of a scalar with respect to the output O, and delta_i = dO_i . O_i:

    dV_j = sum_i P_ij dO_i          dP_ij = dO_i . v_j          dS_ij = P_ij (dP_ij - delta_i) softcap'(x_ij)
    dQ_i = scale sum_j dS_ij k_j    dK_j = scale sum_i dS_ij q_i    dsink_h = -sum_i exp(sink_h - lse_i) delta_i

A sink of one row has that row's term alone. (FlashAttention, arXiv 2205.14135, section 3.1; the soft cap's derivative is
1 - tanh^2.) Sums over the query heads of a KV head, rows and keys are in float32 (float64 for float64 inputs), in a fixed
order. A row that sees no key gives zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from interp_kernels.operands import Operands
from interp_kernels.tiles import MAX_ROWS, TILE_CELLS, Block, Index, blocks, rows_sinks, scores


@dataclass(frozen=True)
class Wanted:
    """Whose gradients are asked for; the others' work is not done."""

    q: bool = True
    k: bool = True
    v: bool = True
    sinks: bool = True


@dataclass(frozen=True, eq=False)
class Gradients:
    """Those asked for, of the shapes and dtypes of what they are gradients of."""

    q: Tensor | None
    k: Tensor | None
    v: Tensor | None
    sinks: Tensor | None


def gradients(
    ops: Operands, output: Tensor, lse: Tensor, output_gradient: Tensor, wanted: Wanted, tile_cells: int = TILE_CELLS
) -> Gradients:
    """The gradients of a scalar, given that with respect to ``output``. The formulas stand at the head of this file.

    output, output_gradient [B, Hq, Tq, Dv]; lse [B, Hq, Tq] (natural log), as ``attend`` gave them.
    tile_cells: cells of a tile over its heads; two buffers of that size are held, with a soft cap three.
    """
    with torch.no_grad(), torch.autocast(ops.q.device.type, enabled=False):
        walk = _Walk(ops, output, lse, output_gradient, wanted, tile_cells)
        # Many rows a block, since every block reads and writes the sums of all keys that it sees.
        for block in blocks(ops, max(tile_cells, MAX_ROWS * ops.group * ops.keys)):
            walk.step(block)
        return walk.result()


def map_gradient(
    ops: Operands, output_gradient: Tensor, batch: slice, kv: slice, cols: Index, out: Tensor | None = None
) -> Tensor:
    """dP_ij = dO_i . v_j of a tile, [b, Hq of the KV heads, rows, cols], in the compute dtype.

    output_gradient: the dO_i of the tile's rows, [b, Hq of the KV heads, rows, Dv]. ``out``: a flat buffer with room for
    the tile, else one is allocated.
    """
    v = ops.v[batch, kv][:, :, cols].to(ops.compute_dtype)
    b, heads, r, width = output_gradient.shape
    pairs, c = v.shape[0] * v.shape[1], v.shape[2]
    gradient = output_gradient.to(v.dtype).reshape(pairs, ops.group * r, width)
    tile = v.new_empty(pairs * ops.group * r * c) if out is None else out[: pairs * ops.group * r * c]
    tile = tile.view(pairs, ops.group * r, c)
    torch.bmm(gradient, v.reshape(pairs, c, width).transpose(1, 2), out=tile)
    return tile.view(b, heads, r, c)


class _Walk:
    """The state of one walk over the map: buffers, and the sums."""

    def __init__(
        self, ops: Operands, output: Tensor, lse: Tensor, output_gradient: Tensor, wanted: Wanted, tile_cells: int
    ) -> None:
        self.ops, self.output, self.output_gradient, self.tile_cells = ops, output, output_gradient, tile_cells
        # Hidden scores less 0 have the exponential 0, also in rows that see no key.
        self.lse = lse.masked_fill(lse == -torch.inf, 0.0)
        # NaN first, so that an element that no block wrote shows.
        self.q = torch.full_like(ops.q, torch.nan, memory_format=torch.contiguous_format) if wanted.q else None
        self.k = self._zeros(ops.k) if wanted.k else None
        self.v = self._zeros(ops.v) if wanted.v else None
        self.sinks = self._zeros(ops.sinks) if wanted.sinks and ops.sinks is not None else None
        self.buffers: list[Tensor] = []

    def step(self, block: Block) -> None:
        """Add what the rows of a block give."""
        ops, dtype, at = self.ops, self.lse.dtype, (block.batch, block.head, block.rows)
        sequences, heads, rows = block.shape
        lo, hi = ops.mask.key_span(block.rows.start + ops.offset, block.rows.stop - 1 + ops.offset, ops.keys)
        width = max(128, self.tile_cells // (sequences * heads * rows))
        tiles = [slice(j, min(j + width, hi)) for j in range(lo, hi, width)]
        kept, total = self._totals(block, tiles)
        # 1 / total stands with dO and delta, as P itself appears in products with them alone.
        gradient = self.output_gradient[at].to(dtype) / total[..., None]
        delta = torch.linalg.vecdot(gradient, self.output[at].to(dtype))
        if self.sinks is not None:
            of_rows = self._sink_mass(block) * delta
            if self.sinks.ndim == 1:
                self.sinks[block.head] -= of_rows.sum(dim=(0, 2))
            else:
                self.sinks[at] = -of_rows
        stacked = (sequences * (block.kv.stop - block.kv.start), ops.group * rows, -1)
        q = ops.q[at].to(dtype).reshape(stacked)
        q_sum = torch.zeros_like(q)
        for cols in tiles:
            p = self._p(block, cols) if kept is None else kept
            self._add(self.v, block, cols, p.view(stacked), gradient.reshape(stacked), 1.0)
            if self.q is None and self.k is None:
                continue
            s = map_gradient(ops, gradient, block.batch, block.kv, cols, out=self.buffers[1])
            s.sub_(delta[..., None]).mul_(p)
            if ops.softcap is not None:
                s.mul_(self.buffers[2][: s.numel()].view(s.shape))
            self._add(self.k, block, cols, s.view(stacked), q, ops.scale)
            if self.q is not None:
                k = ops.k[block.batch, block.kv, cols].to(dtype).reshape(stacked[0], cols.stop - cols.start, -1)
                q_sum.baddbmm_(s.view(stacked), k, alpha=ops.scale)
        if self.q is not None:
            self.q[at] = q_sum.view(*block.shape, -1).to(self.q.dtype)

    def result(self) -> Gradients:
        ops = self.ops
        given = {"k": (self.k, ops.k), "v": (self.v, ops.v), "sinks": (self.sinks, ops.sinks)}
        sums = {name: None if total is None or x is None else total.to(x.dtype) for name, (total, x) in given.items()}
        return Gradients(q=self.q, **sums)

    def _p(self, block: Block, cols: slice) -> Tensor:
        """exp(s - lse) of a tile, in the first buffer; the soft cap's derivative in the third."""
        ops = self.ops
        needed = block.shape[0] * block.shape[1] * block.shape[2] * (cols.stop - cols.start)
        if not self.buffers or self.buffers[0].numel() < needed:
            self.buffers = [self.lse.new_empty(needed) for _ in range(2 if ops.softcap is None else 3)]
        slope = self.buffers[2] if ops.softcap is not None else None
        tile = scores(ops, block.batch, block.kv, block.rows, cols, out=self.buffers[0], slope=slope)
        return tile.sub_(self.lse[block.batch, block.head, block.rows, None]).exp_()

    def _totals(self, block: Block, tiles: list[slice]) -> tuple[Tensor | None, Tensor]:
        """sum_j exp(s - lse) with the sink's share, [b, h, rows]; and exp(s - lse) where one tile holds all keys.

        It is 1 but for the rounding of the log-sum-exp, which grows with its size: in float32 P would be wrong by 4e-6 at
        scores of 100. 1 for a row that sees no key.
        """
        total = self.lse.new_zeros(block.shape) if self.ops.sinks is None else self._sink_mass(block)
        p = None
        for cols in tiles:
            p = self._p(block, cols)
            total += p.sum(dim=-1)
        return p if len(tiles) == 1 else None, total.masked_fill_(total == 0, 1.0)

    def _sink_mass(self, block: Block) -> Tensor:
        """exp(sink - lse), [b, h, rows]; 0 for a sink of -inf."""
        assert self.ops.sinks is not None
        lse = self.lse[block.batch, block.head, block.rows]
        return torch.exp(rows_sinks(self.ops.sinks, block).to(lse.dtype) - lse)

    def _add(self, total: Tensor | None, block: Block, cols: slice, tile: Tensor, x: Tensor, scale: float) -> None:
        """total_j += scale sum_i tile_ij x_i over the rows and the query heads of each KV head."""
        if total is None:
            return
        here = total[block.batch, block.kv, cols]
        here.add_((tile.transpose(1, 2) @ x).view(here.shape), alpha=scale)

    def _zeros(self, x: Tensor) -> Tensor:
        return torch.zeros(x.shape, dtype=self.lse.dtype, device=x.device)
