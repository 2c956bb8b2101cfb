"""The pass over keys: what runs over queries wants every row's normaliser, so it comes second and scores again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interp_kernels import probes as P
from interp_kernels.backends.cpu import sweeps
from interp_kernels.backends.cpu.rows import TILE_CELLS, Scorer, place, row_blocks
from interp_kernels.backends.cpu.threads import share_out
from interp_kernels.operands import Operands
from interp_kernels.tiles import Block

TILE_KEYS = 1024
"""Keys that one task takes: every query that sees them is its own, so no two tasks add to the same sum."""


class ReceivedColumns:
    """Weighted sums over queries. value, seen [B, Hq, Tk]; weights float32 [B, Hq, Tq]."""

    def __init__(self, ops: Operands, weights: Tensor, normalize: bool = False) -> None:
        self.weights = weights
        self.value = torch.full((ops.batch, ops.heads, ops.keys), torch.nan)
        self.seen = torch.full_like(self.value, torch.nan) if normalize else None

    @classmethod
    def of(cls, probe: P.Received, ops: Operands) -> ReceivedColumns:
        weights = torch.ones(1, 1, 1) if probe.weights is None else probe.weights.detach().to(torch.float32)
        weights = weights[:, None] if weights.ndim == 2 else weights
        if probe.queries is not None:
            weights = weights * probe.queries.expand(ops.batch, -1)[:, None]
        return cls(ops, weights.expand(ops.batch, ops.heads, ops.queries), probe.normalize)

    def result(self) -> Tensor:
        return self.value if self.seen is None else self.value / self.seen


class PooledColumns:
    """Sums or maxima over squares. value [B, Hq, squares of queries, squares of keys], cells alike; counted [B, Hq, Tq]."""

    def __init__(self, ops: Operands, block: int, largest: bool, queries: Tensor | None = None) -> None:
        self.block, self.largest = block, largest
        shape = (ops.batch, ops.heads, -(-ops.queries // block), -(-ops.keys // block))
        queries = torch.ones(1, ops.queries, dtype=torch.bool) if queries is None else queries
        self.counted = queries.expand(ops.batch, -1)[:, None].expand(-1, ops.heads, -1)
        self.value = torch.full(shape, torch.nan)
        self.cells = torch.zeros(shape if not largest else (0,) * 4, dtype=torch.int64)

    @classmethod
    def of(cls, probe: P.Pooled, ops: Operands) -> PooledColumns:
        return cls(ops, probe.block, probe.op == "max", probe.queries)

    def result(self) -> Tensor:
        return self.value if self.largest else self.value / self.cells.clamp(min=1)


@dataclass(frozen=True)
class Columns:
    """A task: some keys of some heads of some sequences."""

    batch: slice
    kv: slice
    head: slice
    keys: slice


def column_tasks(ops: Operands, pooled: Sequence[PooledColumns], cells: int) -> list[Columns]:
    """The map in blocks of keys that cut no square; earlier keys, which more queries see, stand first."""
    width = max(1, min(TILE_KEYS, cells))
    if pooled:
        unit = math.lcm(*(p.block for p in pooled))
        width = unit * max(1, width // unit)
    seen: dict[tuple[int, int], Block] = {(b.batch.start, b.kv.start): b for b in row_blocks(ops, cells)}
    return [
        Columns(block.batch, block.kv, block.head, slice(j, min(j + width, ops.keys)))
        for j in range(0, ops.keys, width)
        for block in seen.values()
    ]


class ColumnPass:
    """One worker: its buffers, and how it walks over the queries that see a block of keys."""

    def __init__(
        self,
        ops: Operands,
        shift: Tensor,
        factor: Tensor,
        received: Sequence[ReceivedColumns],
        pooled: Sequence[PooledColumns],
        cells: int,
    ) -> None:
        self.ops, self.shift, self.factor = ops, shift, factor
        self.received, self.pooled, self.cells = received, pooled, cells
        self.scorer = Scorer(ops)
        self.partial = np.empty(TILE_KEYS, dtype=np.float32)

    def __call__(self, task: Columns) -> None:
        heads = (task.batch.stop - task.batch.start) * (task.head.stop - task.head.start)
        width = task.keys.stop - task.keys.start
        sums = [torch.zeros(heads, width) for _ in self.received]
        seen = [torch.zeros(heads, 0 if p.seen is None else width) for p in self.received]
        squares = [self._squares(p, task, heads) for p in self.pooled]
        counts = [torch.zeros_like(x, dtype=torch.int64) for x in squares]
        counted = [p.counted[task.batch, task.head].reshape(heads, -1).contiguous().numpy() for p in self.pooled]
        for block, cols in self._tiles(task):
            tile = self._probabilities(block, cols)
            rows = block.shape[2]
            at = slice(cols.start - task.keys.start, cols.stop - task.keys.start)
            for probe, total, number in zip(self.received, sums, seen, strict=True):
                weights = probe.weights[block.batch, block.head, block.rows].reshape(-1).contiguous().numpy()
                sweeps.column_sweep(tile, rows, weights, False, total[:, at].numpy(), self.partial)
                if probe.seen is not None:
                    sweeps.column_sweep(tile, rows, weights, True, number[:, at].numpy(), self.partial)
            for probe, total, number, which in zip(self.pooled, squares, counts, counted, strict=True):
                first = cols.start - task.keys.start
                sweeps.square_sweep(
                    tile,
                    rows,
                    block.rows.start,
                    first,
                    which,
                    probe.block,
                    probe.largest,
                    total.numpy(),
                    number.numpy(),
                )
        shape = (task.batch.stop - task.batch.start, task.head.stop - task.head.start)
        for probe, total, number in zip(self.received, sums, seen, strict=True):
            probe.value[task.batch, task.head, task.keys] = total.view(*shape, -1)
            if probe.seen is not None:
                probe.seen[task.batch, task.head, task.keys] = number.view(*shape, -1)
        for probe, total, number in zip(self.pooled, squares, counts, strict=True):
            across = slice(task.keys.start // probe.block, -(-task.keys.stop // probe.block))
            probe.value[task.batch, task.head, :, across] = total.view(*shape, *total.shape[1:])
            if not probe.largest:
                probe.cells[task.batch, task.head, :, across] = number.view(*shape, *number.shape[1:])

    def _squares(self, probe: PooledColumns, task: Columns, heads: int) -> Tensor:
        across = -(-task.keys.stop // probe.block) - task.keys.start // probe.block
        return torch.zeros(heads, probe.value.shape[2], across)

    def _tiles(self, task: Columns):
        """Blocks of rows, first rows first, with the keys of the task that any of their queries sees."""
        ops = self.ops
        pairs = (task.batch.stop - task.batch.start) * (task.kv.stop - task.kv.start)
        width = min(task.keys.stop - task.keys.start, TILE_KEYS, self.cells)
        rows = max(1, min(ops.queries, self.cells // (width * ops.group * pairs)))
        for i in range(0, ops.queries, rows):
            block = Block(batch=task.batch, kv=task.kv, rows=slice(i, min(i + rows, ops.queries)), head=task.head)
            lo, hi = ops.mask.key_span(i + ops.offset, block.rows.stop - 1 + ops.offset, ops.keys)
            lo, hi = max(lo, task.keys.start), min(hi, task.keys.stop)
            for j in range(lo, hi, width):
                yield block, slice(j, min(j + width, hi))

    def _probabilities(self, block: Block, cols: slice) -> np.ndarray:
        self.scorer.start(block)
        (_, tile), mask = self.scorer(cols), self.ops.mask
        here = (block.batch, block.head, block.rows)
        shift, factor = (x[here].reshape(-1).contiguous().numpy() for x in (self.shift, self.factor))
        where = place(block, self.ops, cols.start)
        sweeps.probabilities(tile, shift, factor, where, mask.is_causal, mask.window or 0)
        return tile


def column_pass(
    ops: Operands,
    shift: Tensor,
    factor: Tensor,
    received: Sequence[ReceivedColumns],
    pooled: Sequence[PooledColumns],
    cells: int = TILE_CELLS,
) -> None:
    """Fill ``received`` and ``pooled`` from P_ij = factor_i exp(s_ij - shift_i), shift and factor [B, Hq, Tq]."""
    tasks = column_tasks(ops, pooled, cells)
    share_out(tasks, lambda: ColumnPass(ops, shift, factor, received, pooled, cells))
