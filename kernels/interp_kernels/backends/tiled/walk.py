"""Tiled attention with probes in plain torch: O(T) memory, exact, the same bits run after run.

A block of rows is scored against all keys that it may see. While those scores fit in a tile they are kept, and softmax,
output and probes work on them; else the row's maximum and sum are found in a first sweep over key tiles, and a second
sweep recomputes each tile. It is written for CPUs and runs on whatever device the tensors are on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from interp_kernels import probes as P
from interp_kernels.backends.finish import Closing, close, finished, finished_index
from interp_kernels.backends.tiled.accumulate import ROW_PROBES, IndexedProbe, RowProbe, Tile
from interp_kernels.backends.tiled.columns import COLUMN_PROBES
from interp_kernels.operands import Operands
from interp_kernels.tiles import HIDDEN, TILE_CELLS, Block, blocks, rows_sinks, scores


def run(
    ops: Operands, probes: tuple[P.Probe, ...], tile_cells: int = TILE_CELLS
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Output [B, Hq, Tq, Dv] in the inputs' dtype, log-sum-exp [B, Hq, Tq], and each probe's value.

    tile_cells: cells of a tile over its heads; three buffers of that size are held.
    """
    walk = _Walk(ops, probes, tile_cells)
    for block in blocks(ops, tile_cells):
        walk.step(block)
    return walk.output, walk.lse, walk.statistics()


class _Walk:
    """The state of one pass: buffers, results, accumulators."""

    def __init__(self, ops: Operands, probes: tuple[P.Probe, ...], tile_cells: int) -> None:
        self.ops, self.probes, self.tile_cells = ops, probes, tile_cells
        b, h, t = ops.batch, ops.heads, ops.queries
        # NaN first, so that an element that no block wrote shows.
        self.output = torch.full((b, h, t, ops.v.shape[-1]), torch.nan, dtype=ops.v.dtype, device=ops.q.device)
        self.lse = torch.full((b, h, t), torch.nan, dtype=ops.compute_dtype, device=ops.q.device)
        self.seen = torch.zeros((b, h, t), dtype=torch.bool, device=ops.q.device)
        self.rows: dict[str, RowProbe] = {
            probe.label: ROW_PROBES[type(probe)](probe, ops) for probe in probes if type(probe) in ROW_PROBES
        }
        self.columns = {p.label: COLUMN_PROBES[type(p)](p, ops) for p in probes if type(p) in COLUMN_PROBES}
        self.buffers: list[Tensor] = []

    def step(self, block: Block) -> None:
        ops = self.ops
        first, last = block.rows.start + ops.offset, block.rows.stop - 1 + ops.offset
        lo, hi = ops.mask.key_span(first, last, ops.keys)
        tiles = self._key_tiles(block, lo, hi)
        sequences, heads, rows = block.shape
        needed = sequences * heads * rows * max((t.stop - t.start for t in tiles), default=0)
        if not self.buffers or self.buffers[0].numel() < needed:
            self.buffers = [self.lse.new_empty(needed) for _ in range(3)]

        for probe in self.rows.values():
            probe.start(block)
        kept, maximum, total = self._normaliser(block, tiles)
        closing = self._close(block, maximum, total)
        accumulated = self.lse.new_zeros(*block.shape, ops.v.shape[-1])
        for cols in tiles:
            tile = kept if kept is not None else self._tile(block, cols, maximum)[0]
            v = ops.v[block.batch, block.kv, cols].to(accumulated.dtype)
            p = tile.p.view(sequences, -1, ops.group * rows, tile.p.shape[-1])
            accumulated += (p @ v).view(accumulated.shape)
            for probe in self.rows.values():
                probe.add(tile)
            for probe in self.columns.values():
                probe.add(tile, closing)
        self.output[block.batch, block.head, block.rows] = (accumulated * closing.inverse[..., None]).to(ops.v.dtype)
        for probe in self.rows.values():
            probe.finish(block, closing)

    def _key_tiles(self, block: Block, lo: int, hi: int) -> list[slice]:
        """The visible keys in as few tiles as fit; at least 128 keys a tile, so that products stay efficient."""
        sequences, heads, rows = block.shape
        width = max(128, self.tile_cells // (sequences * heads * rows))
        return [slice(j, min(j + width, hi)) for j in range(lo, hi, width)]

    def _tile(self, block: Block, cols: slice, maximum: Tensor | None = None) -> tuple[Tile, Tensor]:
        """Scores less the row maximum (the tile's own, ranked, when None is given), their exponentials, and that maximum."""
        centred = scores(self.ops, block.batch, block.kv, block.rows, cols, out=self.buffers[0])
        if maximum is None:
            maximum = self._ranked(cols, centred)
        centred.sub_(maximum[..., None])
        p, work = (buffer[: centred.numel()].view(centred.shape) for buffer in self.buffers[1:])
        torch.exp(centred, out=p)
        return Tile(block, cols, p, centred, work), maximum

    def _normaliser(self, block: Block, tiles: list[slice]) -> tuple[Tile | None, Tensor, Tensor]:
        """Each row's maximum m and l = sum exp(s - m); the tile too where there is only one."""
        maximum = self.lse.new_full(block.shape, HIDDEN)
        total = self.lse.new_zeros(block.shape)
        if len(tiles) == 1:
            tile, maximum = self._tile(block, tiles[0])
            return tile, maximum, tile.p.sum(dim=-1)
        for cols in tiles:
            s = scores(self.ops, block.batch, block.kv, block.rows, cols, out=self.buffers[0])
            larger = torch.maximum(maximum, self._ranked(cols, s))
            total = total * torch.exp(maximum - larger) + s.sub_(larger[..., None]).exp_().sum(dim=-1)
            maximum = larger
        return None, maximum, total

    def _ranked(self, cols: slice, s: Tensor) -> Tensor:
        """The maximum of each row of scores, once the probes have looked at them."""
        maximum = s.amax(dim=-1)
        for probe in self.rows.values():
            probe.rank(cols, s, maximum)
        return maximum

    def _close(self, block: Block, maximum: Tensor, total: Tensor) -> Closing:
        """Write the log-sum-exp, with the sink's share, and give the factors that close the row's sums."""
        sinks = None if self.ops.sinks is None else rows_sinks(self.ops.sinks, block)
        closing, lse = close(maximum, total, sinks)
        self.lse[block.batch, block.head, block.rows] = lse
        self.seen[block.batch, block.head, block.rows] = closing.seen
        return closing

    def statistics(self) -> dict[str, Tensor]:
        """The finished value of every probe, in the order asked for."""
        stats: dict[str, Tensor] = {}
        for probe in self.probes:
            if probe.label in self.columns:
                stats[probe.label] = self.columns[probe.label].result()
                continue
            row = self.rows[probe.label]
            exists = getattr(row, "exists", None)
            stats[probe.label] = finished(probe, row.value, self.seen, exists)
            if isinstance(row, IndexedProbe) and probe.reduce == "none":
                stats[f"{probe.label}_index"] = finished_index(probe, row.index)
        return stats
