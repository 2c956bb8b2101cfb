"""How each probe is gathered from unnormalised tiles: what the tiled backend adds up, tile after tile, row block after row block.

A tile holds p = exp(s - m) with m the maximum of the whole row, so P = p / l with l = sum_j p (and the sink's share). All
probes but Entropy, Peak and TopK are linear in P: they are summed over p and multiplied by the row's 1 / l at its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from interp_kernels import probes as P
from interp_kernels.backends.finish import Closing
from interp_kernels.backends.tiled.largest import largest, stable_top
from interp_kernels.operands import Operands
from interp_kernels.tiles import HIDDEN, Block, is_hidden


@dataclass(frozen=True)
class Tile:
    """A tile of a row block: p and the centred scores s - m, each [b, h, rows, cols]; ``work`` is scratch of that size."""

    block: Block
    cols: slice
    p: Tensor
    centred: Tensor
    work: Tensor

    def visible(self, column: Tensor | None = None) -> Tensor:
        """Which cells are visible, provided that their row sees a key; or those at ``column`` [b, h, rows, n]."""
        centred = self.centred if column is None else self.centred.gather(-1, column)
        return ~is_hidden(centred)


class RowProbe:
    """A probe with one value (or C values) a query. Subclasses add tiles up in ``row`` and close it in ``finish``."""

    width = 0

    def __init__(self, probe: P.Probe, ops: Operands) -> None:
        self.probe, self.ops = probe, ops
        shape = (ops.batch, ops.heads, ops.queries) + ((self.width,) if self.width else ())
        self.value = torch.full(shape, torch.nan, dtype=ops.compute_dtype, device=ops.q.device)
        self.row = self.value

    def start(self, block: Block) -> None:
        shape = block.shape + ((self.width,) if self.width else ())
        self.row = self.value.new_zeros(shape)

    def rank(self, cols: slice, scores: Tensor, maximum: Tensor) -> None:
        """Look at a tile's scores s [b, h, rows, cols] and their maximum along a row, before anything is taken from them.

        Every tile passes here, keys ascending, before the first is added. For what goes by the order of scores.
        """

    def add(self, tile: Tile) -> None:
        raise NotImplementedError

    def finish(self, block: Block, closing: Closing) -> None:
        self._store(block, self.row * (closing.inverse[..., None] if self.width else closing.inverse))

    def _store(self, block: Block, value: Tensor) -> None:
        self.value[block.batch, block.head, block.rows] = value


class EntropySum(RowProbe):
    """u = sum p (s - m); over the keys alone, H = ln l - u / l, two terms of one sign: nothing cancels.

    With a sink the keys hold the share w = l_keys / l: sum P ln P = w (u / l_keys + ln w - ln l_keys) = u / l - w ln l.
    """

    def start(self, block: Block) -> None:
        super().start(block)
        self.total = self.value.new_zeros(block.shape)

    def add(self, tile: Tile) -> None:
        # A hidden key has p = 0 and a finite centred score, so their product is 0.
        self.row += torch.mul(tile.p, tile.centred, out=tile.work).sum(dim=-1)
        self.total += tile.p.sum(dim=-1)

    def finish(self, block: Block, closing: Closing) -> None:
        self._store(block, closing.inverse * (self.total * closing.log_total - self.row))


class KeyMassSum(RowProbe):
    def __init__(self, probe: P.KeyMass, ops: Operands) -> None:
        self.width = probe.weights.shape[-1]
        super().__init__(probe, ops)
        weights = probe.weights.to(ops.compute_dtype)
        self.weights = weights[(None,) * (4 - weights.ndim)] if weights.ndim != 3 else weights[:, None]

    def add(self, tile: Tile) -> None:
        weights = self.weights[:, :, tile.cols]
        if weights.shape[0] > 1:
            weights = weights[tile.block.batch]
        if weights.shape[1] > 1:
            weights = weights[:, tile.block.head]
        if weights.shape[:2] == (1, 1):
            self.row += (tile.p.flatten(0, 2) @ weights[0, 0]).view(self.row.shape)
        else:
            self.row += tile.p @ weights


class LabelMatchSum(RowProbe):
    def __init__(self, probe: P.LabelMatch, ops: Operands) -> None:
        super().__init__(probe, ops)
        self.strict = probe.strict
        self.query_labels = probe.query_labels.expand(ops.batch, -1)
        self.key_labels = probe.key_labels.expand(ops.batch, -1)

    def add(self, tile: Tile) -> None:
        rows, cols, batch = tile.block.rows, tile.cols, tile.block.batch
        a = self.query_labels[batch, rows, None]
        match = (a == self.key_labels[batch, None, cols]) & (a != -1)
        if self.strict:
            i = torch.arange(rows.start, rows.stop, device=match.device) + self.ops.offset
            match &= torch.arange(cols.start, cols.stop, device=match.device) < i[:, None]
        if match.any():
            self.row += torch.mul(tile.p, match[:, None], out=tile.work).sum(dim=-1)


class OffsetMassSum(RowProbe):
    def __init__(self, probe: P.OffsetMass, ops: Operands) -> None:
        self.width = len(probe.offsets)
        super().__init__(probe, ops)
        self.offsets = torch.tensor(probe.offsets, device=ops.q.device)
        self.exists = torch.zeros(self.value.shape, dtype=torch.bool, device=ops.q.device)

    def add(self, tile: Tile) -> None:
        rows, cols = tile.block.rows, tile.cols
        i = torch.arange(rows.start, rows.stop, device=self.offsets.device) + self.ops.offset
        column = i[:, None] - self.offsets - cols.start
        inside = (column >= 0) & (column < cols.stop - cols.start)
        if inside.any():
            column = column.clamp(0, cols.stop - cols.start - 1).expand(*tile.block.shape, -1)
            visible = tile.visible(column) & inside
            self.row += tile.p.gather(-1, column).masked_fill_(~visible, 0.0)
            self.exists[tile.block.batch, tile.block.head, rows] |= visible


class DistanceSum(RowProbe):
    """Tokens between query and key, in sums of terms of one sign.

    Left of a row block (last key e before it) |i - j| = (i - e) + (e - j), both non-negative, so two thin products serve
    all rows; likewise on its right. Only the columns at the block itself need the distance of each cell. With a window,
    columns farther than it from every row weigh ``window``.
    """

    def __init__(self, probe: P.Distance, ops: Operands) -> None:
        super().__init__(probe, ops)
        self.window = probe.window

    def add(self, tile: Tile) -> None:
        ops, cols, rows = self.ops, tile.cols, tile.block.rows
        first, last = rows.start + ops.offset, rows.stop - 1 + ops.offset
        reach = 0 if self.window is None else self.window
        left = min(max(first - reach, cols.start), cols.stop) - cols.start
        right = min(max(last + 1 + reach, cols.start), cols.stop) - cols.start
        i = torch.arange(first, last + 1, device=tile.p.device, dtype=tile.p.dtype)
        j = torch.arange(cols.start, cols.stop, device=tile.p.device, dtype=tile.p.dtype)
        if left > 0:
            self._far(tile.p[..., :left], j[left - 1] - j[:left], i - j[left - 1])
        if right < j.shape[0]:
            self._far(tile.p[..., right:], j[right:] - j[right], j[right] - i)
        if left < right:
            distance = (i[:, None] - j[left:right]).abs_()
            if self.window is not None:
                distance.clamp_(max=self.window)
            self.row += (tile.p[..., left:right] * distance).sum(dim=-1)

    def _far(self, p: Tensor, within: Tensor, to_edge: Tensor) -> None:
        if self.window is not None:
            self.row += p.sum(dim=-1) * self.window
            return
        sums = p @ torch.stack([torch.ones_like(within), within], dim=-1)
        self.row += sums[..., 0] * to_edge + sums[..., 1]


class IndexedProbe(RowProbe):
    """One whose values come with keys, -1 for none."""

    def __init__(self, probe: P.Probe, ops: Operands) -> None:
        super().__init__(probe, ops)
        self.index = torch.full(self.value.shape, -1, dtype=torch.int64, device=ops.q.device)


class PeakIndex(IndexedProbe):
    """The lowest key with the largest score; its probability is exp(m - m) / l = 1 / l."""

    def start(self, block: Block) -> None:
        self.found = torch.full(block.shape, -1, dtype=torch.int64, device=self.index.device)

    def add(self, tile: Tile) -> None:
        best, index = tile.centred.max(dim=-1)
        here = (best == 0) & (self.found < 0)
        self.found = torch.where(here, index + tile.cols.start, self.found)

    def finish(self, block: Block, closing: Closing) -> None:
        self._store(block, closing.inverse)
        self.index[block.batch, block.head, block.rows] = self.found.masked_fill(~closing.seen, -1)


class TopKRank(IndexedProbe):
    """The k best scores so far of every row, larger ones first, and their keys; at the row's end P = exp(s - m) / l."""

    def __init__(self, probe: P.TopK, ops: Operands) -> None:
        self.width = probe.k
        super().__init__(probe, ops)

    def start(self, block: Block) -> None:
        self.best = self.value.new_full((*block.shape, self.width), HIDDEN)
        self.found = self.index.new_full(self.best.shape, -1)

    def rank(self, cols: slice, scores: Tensor, maximum: Tensor) -> None:
        # Tiles come in the order of their keys, so a score that only equals the k-th best comes too late.
        rows = ~(maximum <= self.best[..., -1])
        if not rows.any():
            return
        best, found = largest(scores if rows.all() else scores[rows][None, None], self.width)
        best, found = best.flatten(0, -2), found.flatten(0, -2) + cols.start
        best, found = torch.cat([self.best[rows], best], dim=-1), torch.cat([self.found[rows], found], dim=-1)
        self.best[rows], order = stable_top(best, self.width)
        self.found[rows] = found.gather(-1, order)

    def add(self, tile: Tile) -> None:
        """Nothing: what a tile holds after ``rank`` has lost the digits that tell apart scores far below the maximum."""

    def finish(self, block: Block, closing: Closing) -> None:
        hidden = is_hidden(self.best)
        value = torch.exp(self.best - self.best[..., :1]) * closing.inverse[..., None]
        self._store(block, value.masked_fill_(hidden, 0.0))
        self.index[block.batch, block.head, block.rows] = self.found.masked_fill(hidden, -1)


class HistogramSum(RowProbe):
    """The mass of each bin as the sum of two slices of every row, once the tile's rows are shifted against one another.

    Written with rows of c + r - 1 cells, r - 1 of them zeros on its left, and read with rows of c + r, a tile of r rows and
    c columns has in row i and column x the key i + x - (r - 1): |i - j| is then the same down a column. Sums of slices
    keep small masses exact, which differences of cumulative sums would not.
    """

    def __init__(self, probe: P.DistanceHistogram, ops: Operands) -> None:
        self.edges = probe.edges
        self.width = len(probe.edges) - 1
        super().__init__(probe, ops)

    def add(self, tile: Tile) -> None:
        first, last = tile.block.rows.start + self.ops.offset, tile.block.rows.stop - 1 + self.ops.offset
        left = int(max(first - self.edges[-1] + 1, tile.cols.start))
        right = int(min(last + self.edges[-1], tile.cols.stop))
        if left >= right:
            return
        b, h, r, _ = tile.p.shape
        cells = r + right - left
        padded = tile.p.new_zeros(b, h, r * cells)
        written = padded[..., : r * (cells - 1)].view(b, h, r, cells - 1)
        written[..., r - 1 :] = tile.p[..., left - tile.cols.start : right - tile.cols.start]
        shifted = padded.view(b, h, r, cells)
        zero = last - left  # the column of distance 0: earlier keys on its left, later ones on its right
        for c, (lo, hi) in enumerate(pairwise(self.edges)):
            before = slice(int(max(zero - hi + 1, 0)), int(min(zero - lo + 1, cells)))
            after = slice(int(max(zero + max(lo, 1), 0)), int(min(zero + hi, cells)))
            for piece in (before, after):
                if piece.start < piece.stop:
                    self.row[..., c] += shifted[..., piece].sum(dim=-1)


ROW_PROBES: dict[type[P.Probe], type[RowProbe]] = {
    P.Entropy: EntropySum,
    P.Peak: PeakIndex,
    P.TopK: TopKRank,
    P.KeyMass: KeyMassSum,
    P.LabelMatch: LabelMatchSum,
    P.OffsetMass: OffsetMassSum,
    P.Distance: DistanceSum,
    P.DistanceHistogram: HistogramSum,
}
