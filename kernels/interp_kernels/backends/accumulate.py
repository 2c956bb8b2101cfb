"""How each probe is gathered from unnormalised tiles: what the tiled backend adds up, tile after tile, row block after row block.

A tile holds p = exp(s - m) with m the maximum of the whole row, so P = p / l with l = sum_j p (and the sink's share). All
probes but Entropy and Peak are linear in P: they are summed over p and multiplied by the row's 1 / l at its end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from interp_kernels import probes as P
from interp_kernels.operands import Operands
from interp_kernels.tiles import Block, is_hidden


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


@dataclass(frozen=True)
class Closing:
    """What a row's end gives, each [b, h, rows]: 1 / l (0 for rows that see no key), ln l, and whether a key is seen."""

    inverse: Tensor
    log_total: Tensor
    seen: Tensor


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


class PeakIndex(RowProbe):
    """The lowest key with the largest score; its probability is exp(m - m) / l = 1 / l."""

    def __init__(self, probe: P.Peak, ops: Operands) -> None:
        super().__init__(probe, ops)
        self.index = torch.full(self.value.shape, -1, dtype=torch.int64, device=ops.q.device)

    def start(self, block: Block) -> None:
        self.found = torch.full(block.shape, -1, dtype=torch.int64, device=self.index.device)

    def add(self, tile: Tile) -> None:
        best, index = tile.centred.max(dim=-1)
        here = (best == 0) & (self.found < 0)
        self.found = torch.where(here, index + tile.cols.start, self.found)

    def finish(self, block: Block, closing: Closing) -> None:
        self._store(block, closing.inverse)
        self.index[block.batch, block.head, block.rows] = self.found.masked_fill(~closing.seen, -1)


class ReceivedSum:
    """Column sums: c_j += (w_i / l_i) p_ij for the rows of a block, row blocks in a fixed order, without atomics."""

    def __init__(self, probe: P.Received, ops: Operands) -> None:
        self.probe, self.ops = probe, ops
        weights = torch.ones(1, 1, ops.queries, dtype=ops.compute_dtype, device=ops.q.device)
        if probe.weights is not None:
            given = probe.weights.to(ops.compute_dtype)
            weights = given[:, None] if given.ndim == 2 else given.expand(1, 1, -1) if given.ndim == 1 else given
        if probe.queries is not None:
            weights = weights * probe.queries.expand(ops.batch, -1)[:, None]
        self.weights = weights.expand(ops.batch, ops.heads, -1)
        self.value = torch.zeros(ops.batch, ops.heads, ops.keys, dtype=ops.compute_dtype, device=ops.q.device)
        self.seen = torch.zeros_like(self.value) if probe.normalize else None

    def add(self, tile: Tile, closing: Closing) -> None:
        block, cols = tile.block, tile.cols
        weights = self.weights[block.batch, block.head, block.rows]
        self.value[block.batch, block.head, cols] += ((weights * closing.inverse)[..., None, :] @ tile.p).squeeze(-2)
        if self.seen is not None:
            counted = (weights * closing.seen)[..., None, :] @ tile.visible().to(tile.p.dtype)
            self.seen[block.batch, block.head, cols] += counted.squeeze(-2)

    def result(self) -> Tensor:
        return self.value if self.seen is None else self.value / self.seen


ROW_PROBES: dict[type[P.Probe], type[RowProbe]] = {
    P.Entropy: EntropySum,
    P.Peak: PeakIndex,
    P.KeyMass: KeyMassSum,
    P.LabelMatch: LabelMatchSum,
    P.OffsetMass: OffsetMassSum,
    P.Distance: DistanceSum,
}
