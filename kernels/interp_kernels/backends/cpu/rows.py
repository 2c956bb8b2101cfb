"""The pass over rows: output, log-sum-exp and every statistic that is a sum, a maximum or an order along a row."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interp_kernels.backends.cpu import sweeps
from interp_kernels.backends.cpu.program import Program
from interp_kernels.backends.cpu.threads import share_out
from interp_kernels.operands import Operands
from interp_kernels.tiles import HIDDEN, Block, scores

TILE_CELLS = 1 << 19
"""Cells of a worker's tile: two megabytes, which the cache holds from BLAS to the sweep and back to BLAS."""

LEAST_ROWS, MOST_ROWS = 128, 512
"""Rows of a tile, over the query heads of a KV head. Few cost BLAS more; on a causal map many waste half of a square."""

TORCH_GRAIN = 32767
"""Elements up to which torch runs an operation in one thread."""

LEAST_KEYS = 64
"""Keys of a tile. A row is summed within its tiles first: key after key, rounding would add up."""


@dataclass(frozen=True)
class Rows:
    """What the pass leaves behind, complete once every block has been walked.

    output [B, Hq, Tq, Dv]; sums [Program.rows, B, Hq, Tq] over unnormalised weights; ends [3, B, Hq, Tq]: 1 / l, ln l and the
    log-sum-exp; exists [offsets, B, Hq, Tq]; peak [B, Hq, Tq] or empty; top_scores, top_keys [k, B, Hq, Tq]
    """

    output: Tensor
    sums: Tensor
    ends: Tensor
    exists: Tensor
    peak: Tensor
    top_scores: Tensor
    top_keys: Tensor

    @classmethod
    def empty(cls, ops: Operands, program: Program) -> Rows:
        shape = (ops.batch, ops.heads, ops.queries)
        # NaN first, so that an element that no block wrote shows.
        return cls(
            output=_filled(torch.nan, *shape, ops.v.shape[-1], dtype=ops.v.dtype),
            sums=_filled(torch.nan, program.rows, *shape),
            ends=_filled(torch.nan, 3, *shape),
            exists=_filled(False, len(program.offsets), *shape, dtype=torch.bool),
            peak=_filled(-1, *(shape if program.peak else (0,)), dtype=torch.int64),
            top_scores=_filled(torch.nan, program.top, *shape),
            top_keys=_filled(-1, program.top, *shape, dtype=torch.int64),
        )


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """On the CPU, whatever type and device torch takes where none is said."""
    return torch.empty(shape, dtype=dtype, device="cpu")


def _filled(value: float, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Piece by piece, each too small for torch to share out: its threads would go on spinning beside the workers."""
    x = empty(*shape, dtype=dtype)
    for piece in x.view(-1).split(TORCH_GRAIN):
        piece.fill_(value)
    return x


def row_blocks(ops: Operands, cells: int) -> Iterator[Block]:
    """The map in blocks of rows: several heads or sequences at once where one alone does not fill a tile.

    Later rows stand first: on a causal map they are the longest, and a worker's last task should be short.
    """
    rows = min(max(ops.group * ops.keys // 8, LEAST_ROWS), MOST_ROWS, cells)
    rows = max(1, min(ops.queries, rows // ops.group))
    pair = ops.group * rows * min(ops.keys, max(1, cells // (ops.group * rows)))
    kv = max(1, min(ops.kv_heads, cells // pair))
    batch = max(1, min(ops.batch, cells // (pair * ops.kv_heads))) if kv == ops.kv_heads else 1
    for b in range(0, ops.batch, batch):
        for h in range(0, ops.kv_heads, kv):
            end = min(h + kv, ops.kv_heads)
            for i in reversed(range(0, ops.queries, rows)):
                yield Block(
                    batch=slice(b, min(b + batch, ops.batch)),
                    kv=slice(h, end),
                    rows=slice(i, min(i + rows, ops.queries)),
                    head=slice(h * ops.group, end * ops.group),
                )


def place(block: Block, ops: Operands, first_key: int) -> np.ndarray:
    """Where a tile lies, as the sweeps want it: sequence, heads, head, rows, row, position of query 0, key."""
    _, heads, rows = block.shape
    numbers = (block.batch.start, heads, block.head.start, rows, block.rows.start, ops.offset, first_key)
    return np.array(numbers, dtype=np.int64)


class Scorer:
    """Scores of the tiles of one block of rows, written into one buffer that it keeps from tile to tile.

    Where a score is a scaled product alone a tile is one call of BLAS (and one sweep where classes of keys add to it), else
    it is ``tiles.scores``. Keys that positions hide are left to the sweeps, all others are hidden here. What a tile needs
    is prepared for the block: every small call inside a tile makes the workers wait for one another's hold on Python.
    """

    def __init__(self, ops: Operands) -> None:
        self.ops = ops
        added = (ops.softcap, ops.alibi, ops.bias, ops.relative_bias)
        self.by_position = not ops.mask.is_per_batch
        self.is_product = self.by_position and all(x is None for x in added)
        self.held: tuple[slice, slice] | None = None
        self.q_kept, self.k_kept = Float32(), Float32()
        self.pairs = self.n = 0
        self.flat = empty(0)
        self.views: dict[int, tuple[Tensor, np.ndarray]] = {}
        self.by_class: tuple[np.ndarray, np.ndarray] | None = None
        if self.is_product and ops.class_values is not None and ops.classes is not None:
            # Unsigned, since a number that may be negative is checked before it is an index.
            classes = ops.classes.to(torch.int32).contiguous().numpy().view(np.uint32)
            self.by_class = ops.class_values.detach().to(torch.float32).contiguous().numpy(), classes

    def start(self, block: Block) -> None:
        ops, self.block = self.ops, block
        pairs = (block.batch.stop - block.batch.start) * (block.kv.stop - block.kv.start)
        if (pairs, math.prod(block.shape)) != (self.pairs, self.n):
            self.pairs, self.n = pairs, math.prod(block.shape)
            self.views.clear()
        if not self.is_product:
            return
        if (block.batch, block.kv) != self.held:
            self.held = (block.batch, block.kv)
            self.keys = self.k_kept.of(ops.k[block.batch, block.kv]).transpose(1, 2)
            queries = self.q_kept.of(ops.q[block.batch, block.head])
            self.queries = queries.view(pairs, ops.group, *queries.shape[1:])
        self.q = self.queries[:, :, block.rows].reshape(pairs, -1, self.queries.shape[-1])

    def __call__(self, cols: slice) -> tuple[Tensor, np.ndarray]:
        """The tile as [pairs, rows, width] for BLAS and as [n, width] for the sweeps."""
        block, width = self.block, cols.stop - cols.start
        views = self.views.get(width)
        if views is None:
            if self.flat.numel() < self.n * width:
                self.flat = empty(self.n * width)
                self.views.clear()
            tile = self.flat[: self.n * width].view(self.pairs, -1, width)
            views = self.views[width] = tile, tile.view(self.n, width).numpy()
        if self.is_product:
            # Scaled as ``tiles.scores`` does it: the lazy map takes its scores from there, the log-sum-exp from here.
            torch.baddbmm(views[0], self.q, self.keys[:, :, cols], beta=0, alpha=self.ops.scale, out=views[0])
            if self.by_class is not None:
                sweeps.add_by_class(views[1], *self.by_class, place(block, self.ops, cols.start))
        else:
            hide = not self.by_position
            scores(self.ops, block.batch, block.kv, block.rows, cols, out=views[0].view(-1), hide=hide)
        return views


class Float32:
    """Heads in float32, [b h, T, D]: the same memory where that is possible, else copies into memory that is kept."""

    def __init__(self) -> None:
        self.kept = empty(0)

    def of(self, x: Tensor) -> Tensor:
        """x [b, h, T, D]."""
        b, h, t, d = x.shape
        if x.dtype == torch.float32:
            return x.reshape(b * h, t, d)
        if self.kept.numel() < x.numel():
            self.kept = empty(x.numel())
        return self.kept[: x.numel()].view(x.shape).copy_(x).view(b * h, t, d)


def _as_array(sinks: Tensor | None) -> np.ndarray:
    """[B or 1, Hq, Tq or 1], or [0, 0, 0] where there are none."""
    if sinks is None:
        return np.zeros((0, 0, 0), np.float32)
    sinks = sinks if sinks.ndim == 3 else sinks[None, :, None]
    return sinks.detach().to(torch.float32).contiguous().numpy()


class RowPass:
    """One worker: its buffers, and how it walks over a block."""

    def __init__(self, ops: Operands, program: Program, rows: Rows, cells: int) -> None:
        self.ops, self.program, self.rows, self.cells = ops, program, rows, cells
        self.scorer = Scorer(ops)
        self.v_kept = Float32()
        self.held: tuple[slice, slice] | None = None
        self.n = 0
        self.sinks = _as_array(ops.sinks)
        key_position = np.arange(ops.keys if len(program.distance_windows) else 0, dtype=np.float32)
        self.told = (
            ops.mask.is_causal,
            ops.mask.window or 0,
            program.query_labels,
            program.key_labels,
            program.strict,
            program.weights,
            key_position,
            program.distance_windows,
            program.bins,
            program.offsets,
        )

    def __call__(self, block: Block) -> None:
        ops, program = self.ops, self.program
        self._start(block)
        by_pair = self.output.view(self.scorer.pairs, -1, self.output.shape[-1])
        where = place(block, ops, 0)
        for cols in self._key_tiles(block):
            weights, tile = self.scorer(cols)
            where[-1] = cols.start
            sweeps.row_sweep(tile, self.arrays[0], self.arrays[1], where, *self.told, *self.arrays[2:])
            by_pair.baddbmm_(weights, self.values[:, cols])
        sweeps.close_rows(self.arrays[0], self.arrays[1], self.ends.numpy(), self.sinks, where)

        rows = self.rows
        here = (block.batch, block.head, block.rows)
        rows.output[here] = self.output.view(*block.shape, -1)
        rows.sums[:, *here] = self.state.view(-1, *block.shape)
        rows.ends[:, *here] = self.ends.view(-1, *block.shape)
        if program.peak:
            rows.peak[here] = self.peak.view(block.shape)
        if len(program.offsets):
            rows.exists[:, *here] = self.exists.view(-1, *block.shape)
        if program.top:
            rows.top_scores[:, *here] = self.top_scores.view(-1, *block.shape)
            rows.top_keys[:, *here] = self.top_keys.view(-1, *block.shape)

    def _start(self, block: Block) -> None:
        """Set the sums of the block's rows to nothing."""
        program = self.program
        n = math.prod(block.shape)
        if n != self.n:
            self.n = n
            self.output = empty(n, self.ops.v.shape[-1])
            self.state = empty(program.rows, n)
            self.ends = empty(3, n)
            self.exists = empty(len(program.offsets), n, dtype=torch.bool)
            self.peak = empty(n if program.peak else 0, dtype=torch.int64)
            self.top_scores = empty(program.top, n)
            self.top_keys = empty(program.top, n, dtype=torch.int64)
            buffers = (self.output, self.state, self.exists, self.peak, self.top_scores, self.top_keys)
            self.arrays = [x.numpy() for x in buffers]
        output, state, exists, peak, top_scores, top_keys = self.arrays
        output.fill(0)
        state.fill(0)
        state[0].fill(HIDDEN)
        exists.fill(False)
        peak.fill(-1)
        top_scores.fill(HIDDEN)
        top_keys.fill(-1)
        self.scorer.start(block)
        if (block.batch, block.kv) != self.held:
            self.held = (block.batch, block.kv)
            self.values = self.v_kept.of(self.ops.v[block.batch, block.kv])

    def _key_tiles(self, block: Block) -> list[slice]:
        """The visible keys in as few equal tiles as fit."""
        first, last = block.rows.start + self.ops.offset, block.rows.stop - 1 + self.ops.offset
        lo, hi = self.ops.mask.key_span(first, last, self.ops.keys)
        if lo == hi:
            return []
        count = -(-(hi - lo) // max(LEAST_KEYS, self.cells // self.n))
        width = -(-(hi - lo) // count)
        return [slice(j, min(j + width, hi)) for j in range(lo, hi, width)]


def row_pass(ops: Operands, program: Program, cells: int = TILE_CELLS) -> Rows:
    """Walk over the whole map once."""
    rows = Rows.empty(ops, program)
    share_out(list(row_blocks(ops, cells)), lambda: RowPass(ops, program, rows, cells))
    return rows
