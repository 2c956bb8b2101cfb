"""The passes that know every row's normaliser, from the host's side: allocate, launch, hand over.

P_ij = factor_i 2^((s_ij - shift_i) c). After a forward pass shift is the row's maximum and factor what its sums gave, so P
keeps the digits of the softmax. The lazy map has the log-sum-exp alone: it is the shift. 2^(...) is bounded by 1, which rounding
may exceed where a key is scored again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from interp_kernels.backends.triton.device.cells import cells_kernel
from interp_kernels.backends.triton.device.columns import columns_kernel
from interp_kernels.backends.triton.device.histogram import histogram_kernel
from interp_kernels.backends.triton.device.largest import largest_kernel
from interp_kernels.backends.triton.device.matches import matches_kernel
from interp_kernels.backends.triton.device.pairs import pairs_kernel
from interp_kernels.backends.triton.device.product import product_kernel
from interp_kernels.backends.triton.device.squares import squares_kernel
from interp_kernels.backends.triton.labels import LabelOrder
from interp_kernels.backends.triton.launch import cdiv, launch
from interp_kernels.backends.triton.operands import Call, constants, padded

UNBOUNDED = 1 << 30
"""The edge of a bin without end: beyond every distance."""

VECTORS = 4
"""Most sums over queries that one launch gathers."""


@dataclass(frozen=True)
class Rows:
    """A call with every row's normaliser, [B, Hq, Tq] each."""

    call: Call
    shift: Tensor
    factor: Tensor

    @classmethod
    def from_lse(cls, call: Call, lse: Tensor) -> Rows:
        shift = lse.contiguous() / call.nat
        return cls(call, shift.masked_fill(lse == -torch.inf, 0.0), torch.ones_like(shift))

    @cached_property
    def seen(self) -> Tensor:
        """Whether a row sees a key; so does one of NaN. After a forward pass alone."""
        return ~(self.shift <= 0.5 * self.call.hidden)

    @property
    def heads(self) -> int:
        return self.call.ops.batch * self.call.ops.heads

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.shift.device)


def column_sums(rows: Rows, weights: Tensor, counts: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """sum_i w_i P_ij [N, B, Hq, Tk] for weights [N, B, Hq, Tq]; and the sums of counts [N, B, Hq, Tq] over the queries that
    see the key. N is at most VECTORS."""
    ops = rows.call.ops
    n = weights.shape[0]
    sums = rows.empty(n, ops.batch, ops.heads, ops.keys)
    seen = None if counts is None else torch.empty_like(sums)
    arguments = {
        "shift_ptr": rows.shift,
        "weight_ptr": (weights * rows.factor).contiguous(),
        "count_ptr": None if counts is None else counts.contiguous(),
        "sum_ptr": sums,
        "seen_ptr": seen,
        "weight_n": weights[0].numel(),
        "count_n": weights[0].numel(),
        "WEIGHTS": n,
        "COUNTS": 0 if counts is None else n,
    }
    launch(columns_kernel, "columns", rows.call, lambda c: (rows.heads * cdiv(ops.keys, c.block_n),), arguments)
    return sums, seen


def matches(rows: Rows, order: LabelOrder, splits: int) -> Tensor:
    """sum_j P_ij over the keys of the query's label, [B, Hq, Tq]. A block's keys are shared out to ``splits`` programs."""
    ops = rows.call.ops
    value = rows.empty(splits, *rows.shift.shape)
    arguments = {
        "shift_ptr": rows.shift,
        "factor_ptr": rows.factor,
        "query_ptr": order.query,
        "from_ptr": order.start,
        "to_ptr": order.end,
        "key_ptr": order.key,
        "value_ptr": value,
        "splits": splits,
    }
    launch(matches_kernel, "rows", rows.call, lambda c: (rows.heads * cdiv(ops.queries, c.block_m), splits), arguments)
    return value[0] if splits == 1 else value.sum(0)


def pairs(rows: Rows, offsets: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """P_i,(i-d) for each d of offsets, and whether that pair is visible. [B, Hq, Tq, offsets] each."""
    ops = rows.call.ops
    shape = (*rows.shift.shape, len(offsets))
    value, exists = rows.empty(*shape), rows.empty(*shape, dtype=torch.uint8)
    # No key lies farther than every position is long; this keeps any integer within int32.
    far = ops.queries + ops.keys + abs(ops.offset)
    clipped = tuple(max(-far, min(far, d)) for d in offsets)
    arguments = {
        "shift_ptr": rows.shift,
        "factor_ptr": rows.factor,
        "offsets_ptr": constants(clipped, rows.shift.device),
        "value_ptr": value,
        "exists_ptr": exists,
        "offsets": len(offsets),
    }
    launch(pairs_kernel, "rows", rows.call, lambda c: (rows.heads * cdiv(ops.queries, c.block_m),), arguments)
    return value, exists.bool()


def top(rows: Rows, k: int) -> tuple[Tensor, Tensor]:
    """The k largest P_ij of every row, by score, ties to the lower key, and their keys; 0 and -1 beyond the visible keys."""
    call, ops = rows.call, rows.call.ops
    score = rows.empty(*rows.shift.shape, k)
    index = rows.empty(*rows.shift.shape, k, dtype=torch.int32)
    arguments = {"score_ptr": score, "index_ptr": index, "TAKEN": k, "PLACES": max(2, 1 << (k - 1).bit_length())}
    launch(largest_kernel, "rows", call, lambda c: (rows.heads * cdiv(ops.queries, c.block_m),), arguments)
    # Empty places hold the hidden score and sort behind all others; equal scores stay in the order of their keys.
    index, order = index.long().sort(dim=-1)
    score, by_score = score.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    index = index.gather(-1, by_score)
    value = torch.exp2(((score - rows.shift[..., None]) * call.unit).clamp(max=0.0)) * rows.factor[..., None]
    # A row that is NaN shows it in every place, also where no score could be ranked.
    return value.masked_fill((index < 0) & ~value.isnan(), 0.0), index


def histogram(rows: Rows, edges: tuple[float, ...]) -> Tensor:
    """sum_j P_ij [e_n <= |i - j| < e_(n+1)], [B, Hq, Tq, bins]."""
    ops = rows.call.ops
    whole = tuple(int(min(edge, UNBOUNDED)) for edge in edges)
    value = rows.empty(*rows.shift.shape, len(edges) - 1)
    arguments = {
        "shift_ptr": rows.shift,
        "factor_ptr": rows.factor,
        "edge_ptr": constants(whole, rows.shift.device),
        "value_ptr": value,
        "bins": len(edges) - 1,
    }
    launch(histogram_kernel, "rows", rows.call, lambda c: (rows.heads * cdiv(ops.queries, c.block_m),), arguments)
    return value


def squares(rows: Rows, size: int, op: str, chosen: Tensor | None = None) -> Tensor:
    """Mean over visible cells, or maximum, of P over squares, of the queries chosen [B, Tq]. [B, Hq, R, C]."""
    ops = rows.call.ops
    size = min(size, 1 << 24)
    down, across = cdiv(ops.queries, size), cdiv(ops.keys, size)
    value = rows.empty(ops.batch, ops.heads, down, across)
    arguments = {
        "shift_ptr": rows.shift,
        "factor_ptr": rows.factor,
        "chosen_ptr": None if chosen is None else chosen.contiguous().view(torch.uint8),
        "value_ptr": value,
        "size": size,
        "CHOSEN": chosen is not None,
        "MEAN": op == "mean",
    }
    # A tile is 16, 32, 64 or 128 cells a side: sizes that divide it go several to a tile.
    piece = size if size <= 16 and size & (size - 1) == 0 else 0
    arguments["PIECE"] = piece

    def programs(c) -> tuple[int]:
        if piece:
            return (rows.heads * cdiv(ops.queries, c.block_m) * cdiv(ops.keys, c.block_n),)
        return (rows.heads * down * across,)

    launch(squares_kernel, "rows", rows.call, programs, arguments)
    return value


def cells(rows: Rows, index: Tensor, columns: slice) -> Tensor:
    """P of the rows ``index`` and a slice of columns, [B, Hq, n, columns]."""
    ops = rows.call.ops
    n, width = index.shape[0], columns.stop - columns.start
    value = rows.empty(ops.batch, ops.heads, n, width)
    arguments = {
        "shift_ptr": rows.shift,
        "factor_ptr": rows.factor,
        "row_ptr": index.to(torch.int32),
        "value_ptr": value,
        "chosen_rows": n,
        "first_column": columns.start,
        "columns": width,
    }

    def programs(c) -> tuple[int]:
        return (rows.heads * cdiv(n, c.block_m) * cdiv(width, c.block_n),)

    launch(cells_kernel, "rows", rows.call, programs, arguments)
    return value


def product(rows: Rows, x: Tensor) -> Tensor:
    """P x for x [B, Hq, Tk, C], expanded where it is shared. [B, Hq, Tq, C]."""
    ops = rows.call.ops
    columns = x.shape[-1]
    x = x if x.stride(-1) == 1 or columns == 1 else x.contiguous()
    value = rows.empty(ops.batch, ops.heads, ops.queries, columns)
    wide = 1 if columns == 1 else min(64, padded(columns))
    arguments = {
        "shift_ptr": rows.shift,
        "factor_ptr": rows.factor,
        "x_ptr": x,
        "x_b": x.stride(0),
        "x_h": x.stride(1),
        "x_t": x.stride(2),
        "value_ptr": value,
        "columns": columns,
        "WIDE": wide,
    }

    def programs(c) -> tuple[int, int]:
        return rows.heads * cdiv(ops.queries, c.block_m), cdiv(columns, wide)

    launch(product_kernel, "rows", rows.call, programs, arguments)
    return value
