"""The pass over keys: what runs over queries wants every row's normaliser, so it comes second and scores again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interp_kernels import probes as P
from interp_kernels.backends.cpu import sweeps
from interp_kernels.backends.cpu.rows import LEAST_KEYS, TILE_CELLS, Scorer, empty, place, row_blocks
from interp_kernels.backends.cpu.threads import share_out
from interp_kernels.operands import Operands
from interp_kernels.tiles import Block

TILE_KEYS = 1024
"""Keys that one task takes: every query that sees them is its own, so no two tasks add to the same sum."""


class ReceivedColumns:
    """Weighted sums over queries. value, seen [B, Hq, Tk]; weights float32 [B, Hq, Tq]."""

    def __init__(self, ops: Operands, weights: Tensor, normalize: bool = False) -> None:
        self.weights = weights
        self.value = empty(ops.batch, ops.heads, ops.keys).fill_(torch.nan)
        self.seen = torch.full_like(self.value, torch.nan) if normalize else None

    def result(self) -> Tensor:
        return self.value if self.seen is None else self.value / self.seen


class PooledColumns:
    """Sums or maxima over squares. value [B, Hq, squares of queries, squares of keys], cells alike; counted [B, Hq, Tq]."""

    def __init__(self, ops: Operands, block: int, largest: bool, queries: Tensor | None = None) -> None:
        self.block, self.largest = block, largest
        shape = (ops.batch, ops.heads, -(-ops.queries // block), -(-ops.keys // block))
        queries = empty(1, ops.queries, dtype=torch.bool).fill_(True) if queries is None else queries
        self.counted = queries.expand(ops.batch, -1)[:, None].expand(-1, ops.heads, -1)
        self.value = empty(*shape).fill_(torch.nan)
        self.cells = empty(*(shape if not largest else (0,) * 4), dtype=torch.int64).zero_()

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
    width = max(LEAST_KEYS, min(TILE_KEYS, cells))
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
        col_factors: Tensor | None = None,
    ) -> None:
        self.ops, self.shift, self.factor, self.col_factors = ops, shift, factor, col_factors
        self.received, self.pooled, self.cells = received, pooled, cells
        self.scorer = Scorer(ops)
        self.partial = np.empty(TILE_KEYS, dtype=np.float32)

    def __call__(self, task: Columns) -> None:
        ops, mask = self.ops, self.ops.mask
        shape = (task.batch.stop - task.batch.start, task.head.stop - task.head.start)
        heads, width = math.prod(shape), task.keys.stop - task.keys.start

        def of_task(x: Tensor) -> np.ndarray:
            """x [B, Hq, T] -> [heads of the task, T]."""
            return x[task.batch, task.head].reshape(heads, -1).contiguous().numpy()

        shift, factor = of_task(self.shift), of_task(self.factor)
        by_key = None if self.col_factors is None else of_task(self.col_factors)
        weights = [of_task(p.weights) for p in self.received]
        counted = [of_task(p.counted) for p in self.pooled]
        sums = [np.zeros((heads, width), np.float32) for _ in self.received]
        seen = [np.zeros((heads, 0 if p.seen is None else width), np.float32) for p in self.received]
        squares = [self._squares(p, task, heads) for p in self.pooled]
        counts = [np.zeros(x.shape, np.int64) for x in squares]
        for block, cols in self._tiles(task):
            self.scorer.start(block)
            _, tile = self.scorer(cols)
            where, at = place(block, ops, cols.start), cols.start - task.keys.start
            sweeps.probabilities(tile, shift, factor, where, mask.is_causal, mask.window or 0)
            if by_key is not None:
                # A hidden cell, -0.0, stays one.
                of_heads = tile.reshape(heads, -1, tile.shape[1])
                np.multiply(of_heads, by_key[:, None, cols], out=of_heads)
            for probe, w, total, number in zip(self.received, weights, sums, seen, strict=True):
                sweeps.column_sweep(tile, where, w, False, total, at, self.partial)
                if probe.seen is not None:
                    sweeps.column_sweep(tile, where, w, True, number, at, self.partial)
            for probe, which, total, number in zip(self.pooled, counted, squares, counts, strict=True):
                sweeps.square_sweep(tile, where, at, which, probe.block, probe.largest, total, number)
        for probe, total, number in zip(self.received, sums, seen, strict=True):
            probe.value[task.batch, task.head, task.keys] = torch.from_numpy(total).view(*shape, -1)
            if probe.seen is not None:
                probe.seen[task.batch, task.head, task.keys] = torch.from_numpy(number).view(*shape, -1)
        for probe, total, number in zip(self.pooled, squares, counts, strict=True):
            across = slice(task.keys.start // probe.block, -(-task.keys.stop // probe.block))
            probe.value[task.batch, task.head, :, across] = torch.from_numpy(total).view(*shape, *total.shape[1:])
            if not probe.largest:
                probe.cells[task.batch, task.head, :, across] = torch.from_numpy(number).view(*shape, *total.shape[1:])

    def _squares(self, probe: PooledColumns, task: Columns, heads: int) -> np.ndarray:
        across = -(-task.keys.stop // probe.block) - task.keys.start // probe.block
        return np.zeros((heads, probe.value.shape[2], across), np.float32)

    def _tiles(self, task: Columns) -> Iterator[tuple[Block, slice]]:
        """Blocks of rows, first rows first, with the keys of the task that any of their queries sees."""
        ops = self.ops
        pairs = (task.batch.stop - task.batch.start) * (task.kv.stop - task.kv.start)
        width = min(task.keys.stop - task.keys.start, max(LEAST_KEYS, min(TILE_KEYS, self.cells)))
        rows = max(1, min(ops.queries, self.cells // (width * ops.group * pairs)))
        for i in range(0, ops.queries, rows):
            block = Block(batch=task.batch, kv=task.kv, rows=slice(i, min(i + rows, ops.queries)), head=task.head)
            lo, hi = ops.mask.key_span(i + ops.offset, block.rows.stop - 1 + ops.offset, ops.keys)
            lo, hi = max(lo, task.keys.start), min(hi, task.keys.stop)
            for j in range(lo, hi, width):
                yield block, slice(j, min(j + width, hi))


def column_pass(
    ops: Operands,
    shift: Tensor,
    factor: Tensor,
    received: Sequence[ReceivedColumns],
    pooled: Sequence[PooledColumns],
    cells: int = TILE_CELLS,
    col_factors: Tensor | None = None,
) -> None:
    """Fill ``received`` and ``pooled`` from P_ij = factor_i exp(s_ij - shift_i), shift and factor [B, Hq, Tq].

    col_factors [B, Hq, Tk], at least 0: P_ij is multiplied by them.
    """
    tasks = column_tasks(ops, pooled, cells)
    share_out(tasks, lambda: ColumnPass(ops, shift, factor, received, pooled, cells, col_factors))
