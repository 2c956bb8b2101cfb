"""The lazy attention map: any row, tile, diagonal, pooling or product of P, never P itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from interp_kernels.mask import describe
from interp_kernels.operands import Operands
from interp_kernels.tiles import TILE_CELLS, Block, blocks, is_hidden, scores

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

DENSE_CELLS = 1 << 26
"""Most cells, over all heads and sequences, that ``dense`` will build: 256 MB in float32."""


@dataclass(frozen=True, eq=False, repr=False)
class AttentionMap:
    """P[b, h, i, j] as an object: references to q, k, v, the mask and the log-sum-exp, O(T) memory.

    i is the query's index (not its position), j the key's index. Every method recomputes the scores that it needs:
    P_ij = exp(s_ij - lse_i), so a row sums to 1 within the rounding of the scores, or to less with sink logits. Values
    are float32 (float64 for float64 inputs), on the inputs' device, and carry no gradient.
    """

    operands: Operands
    lse: Tensor

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, Hq, Tq, Tk)."""
        ops = self.operands
        return ops.batch, ops.heads, ops.queries, ops.keys

    def __repr__(self) -> str:
        b, h, t, k = self.shape
        ops = self.operands
        held = [x for x in (ops.q, ops.k, ops.v, self.lse) if x is not None]
        megabytes = sum(x.numel() * x.element_size() for x in held) / 1e6
        return f"AttentionMap(B={b}, Hq={h}, Tq={t}, Tk={k}, {ops.q.dtype}, lazy, {megabytes:.1f} MB)"

    def head(self, batch: int, head: int) -> AttentionMap:
        """The map of one head of one sequence, shape (1, 1, Tq, Tk)."""
        b, h = self._index("batch", batch, self.shape[0]), self._index("head", head, self.shape[1])
        return AttentionMap(self.operands.one_head(b, h), self.lse[b : b + 1, h : h + 1])

    @torch.no_grad()
    def rows(self, index: int | Sequence[int] | Tensor) -> Tensor:
        """P[:, :, index, :], [B, Hq, n, Tk]; n Tk cells a head. Negative indices count from the end."""
        index = torch.as_tensor(index, device=self.lse.device).reshape(-1)
        if index.is_floating_point() or index.dtype == torch.bool:
            raise ValueError(f"index: expected integers, got {index.dtype}")
        queries, keys = self.shape[2:]
        if index.numel() and not bool(((index >= -queries) & (index < queries)).all()):
            raise IndexError(f"index: expected rows in [-{queries}, {queries}), got {index.tolist()[:8]}")
        index = torch.where(index < 0, index + queries, index)
        return self._weights(slice(0, self.shape[0]), slice(0, self.operands.kv_heads), index, slice(0, keys))

    @torch.no_grad()
    def tile(self, rows: slice, cols: slice) -> Tensor:
        """P[:, :, rows, cols] for two slices of step 1, [B, Hq, rows, cols]."""
        rows, cols = self._slice("rows", rows, self.shape[2]), self._slice("cols", cols, self.shape[3])
        return self._weights(slice(0, self.shape[0]), slice(0, self.operands.kv_heads), rows, cols)

    @torch.no_grad()
    def diagonal(self, d: int) -> Tensor:
        """P[i, i - d] for every query, i - d taken on positions; 0 where that key does not exist. [B, Hq, Tq]."""
        if isinstance(d, bool) or not isinstance(d, int):
            raise ValueError(f"d: expected an integer, got {d!r}")
        ops = self.operands
        out = torch.zeros(self.shape[:3], dtype=self.lse.dtype, device=self.lse.device)
        step = 64
        for start in range(0, ops.queries, step):
            stop = min(start + step, ops.queries)
            lo, hi = max(start + ops.offset - d, 0), min(stop + ops.offset - d, ops.keys)
            if lo >= hi:
                continue
            rows = slice(lo + d - ops.offset, hi + d - ops.offset)
            tile = self._weights(slice(0, ops.batch), slice(0, ops.kv_heads), rows, slice(lo, hi))
            out[:, :, rows] = tile.diagonal(dim1=-2, dim2=-1)
        return out

    @torch.no_grad()
    def pool(self, block: int, op: Literal["mean", "max"] = "mean") -> Tensor:
        """Mean over the visible cells, or maximum, of P over block x block squares.

        [B, Hq, ceil(Tq / block), ceil(Tk / block)]; a square without a visible cell gives 0.
        """
        if isinstance(block, bool) or not isinstance(block, int) or block < 1:
            raise ValueError(f"block: expected an integer of at least 1, got {block!r}")
        if op not in ("mean", "max"):
            raise ValueError(f"op: expected 'mean' or 'max', got {op!r}")
        b, h, queries, keys = self.shape
        out = torch.zeros(b, h, -(-queries // block), -(-keys // block), dtype=self.lse.dtype, device=self.lse.device)
        count = torch.zeros_like(out) if op == "mean" else None
        target = torch.arange(keys, device=out.device) // block
        for part, cols, p, visible in self._walk():
            columns = target[cols].expand_as(p)
            width = out.shape[-1]
            by_row = p.new_zeros(*p.shape[:3], width)
            seen = p.new_zeros(*p.shape[:3], width)
            if op == "mean":
                by_row.scatter_add_(-1, columns, p)
                seen.scatter_add_(-1, columns, visible.to(p.dtype).expand_as(p))
            else:
                by_row.scatter_reduce_(-1, columns, p, "amax")
            for i in range(part.rows.start // block, (part.rows.stop - 1) // block + 1):
                local = slice(max(i * block - part.rows.start, 0), (i + 1) * block - part.rows.start)
                cell = out[part.batch, part.head, i]
                if count is not None:
                    cell += by_row[:, :, local].sum(dim=2)
                    count[part.batch, part.head, i] += seen[:, :, local].sum(dim=2)
                else:
                    out[part.batch, part.head, i] = torch.maximum(cell, by_row[:, :, local].amax(dim=2))
        return out if count is None else out / count.clamp(min=1)

    @torch.no_grad()
    def topk(self, k: int) -> tuple[Tensor, Tensor]:
        """The k largest P_ij of every row and their keys, sorted; ties go to the lower key. [B, Hq, Tq, k] twice.

        Beyond the visible keys the value is 0 and the key -1.
        """
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"k: expected an integer of at least 1, got {k!r}")
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

    @torch.no_grad()
    def matmul(self, x: Tensor) -> Tensor:
        """P x: what every query reads. x [Tk, C], [B, Tk, C] or [B, Hq, Tk, C] -> [B, Hq, Tq, C]."""
        b, h, queries, keys = self.shape
        if not isinstance(x, Tensor) or x.ndim not in (2, 3, 4) or x.shape[-2] != keys:
            wanted = f"[{keys}, C], [{b}, {keys}, C] or [{b}, {h}, {keys}, C]"
            raise ValueError(f"x: expected {wanted}, got {describe(x)}")
        x = self._spread("x", x, x.ndim == 3)
        out = torch.zeros(b, h, queries, x.shape[-1], dtype=self.lse.dtype, device=self.lse.device)
        for part, cols, p, _ in self._walk():
            out[part.batch, part.head, part.rows] += p @ x[part.batch, part.head, cols]
        return out

    @torch.no_grad()
    def rmatmul(self, w: Tensor) -> Tensor:
        """P^T w: what every key gives, c_j = sum_i w_i P_ij. w [Tq], [B, Tq] or [B, Hq, Tq] -> [B, Hq, Tk]."""
        b, h, queries, keys = self.shape
        if not isinstance(w, Tensor) or w.ndim not in (1, 2, 3) or w.shape[-1] != queries:
            raise ValueError(f"w: expected [{queries}], [{b}, {queries}] or [{b}, {h}, {queries}], got {describe(w)}")
        w = self._spread("w", w[..., None], w.ndim == 2).squeeze(-1)
        out = torch.zeros(b, h, keys, dtype=self.lse.dtype, device=self.lse.device)
        for part, cols, p, _ in self._walk():
            weights = w[part.batch, part.head, part.rows]
            out[part.batch, part.head, cols] += (weights[..., None, :] @ p).squeeze(-2)
        return out

    def dense(self) -> Tensor:
        """P itself, [B, Hq, Tq, Tk], for short inputs; refuses above ``DENSE_CELLS`` cells."""
        b, h, queries, keys = self.shape
        cells = b * h * queries * keys
        if cells > DENSE_CELLS:
            raise ValueError(
                f"dense() would build {b} x {h} x {queries} x {keys} = {cells:,} cells, more than {DENSE_CELLS:,}; "
                "ask for rows, a tile, pool(block), topk(k) or a product instead, or narrow with head(batch, head)"
            )
        return self.tile(slice(0, queries), slice(0, keys))

    def to_linear_operator(self, batch: int, head: int) -> LinearOperator:
        """One head's map as a scipy LinearOperator of shape (Tq, Tk), for svds, eigs and the like. Needs scipy, CPU."""
        from scipy.sparse.linalg import LinearOperator

        one = self.head(batch, head)

        # Copies, since scipy may hand over arrays that are read-only or run backwards.
        def forward(x):
            x = torch.as_tensor(x.copy()).to(one.lse)
            return one.matmul(x.reshape(one.shape[3], -1))[0, 0].reshape(-1, *x.shape[1:]).cpu().numpy()

        def backward(w):
            w = torch.as_tensor(w.copy()).to(one.lse).reshape(one.shape[2], -1)
            columns = [one.rmatmul(w[:, c])[0, 0] for c in range(w.shape[1])]
            return torch.stack(columns, dim=-1).cpu().numpy()

        dtype = "float64" if one.lse.dtype == torch.float64 else "float32"
        return LinearOperator(
            dtype=dtype,
            shape=one.shape[2:],
            matvec=lambda x: forward(x.reshape(-1)),
            rmatvec=lambda x: backward(x).reshape(-1),
            matmat=forward,
            rmatmat=backward,
        )

    def _weights(self, batch: slice, kv: slice, rows: slice | Tensor, cols: slice) -> Tensor:
        ops = self.operands
        tile = scores(ops, batch, kv, rows, cols)
        lse = self.lse[batch, kv.start * ops.group : kv.stop * ops.group][:, :, rows, None]
        hidden = is_hidden(tile)
        # Recomputed scores may exceed the log-sum-exp by rounding; a probability may not exceed 1.
        return tile.sub_(lse.masked_fill(lse == -torch.inf, 0.0)).clamp_(max=0.0).exp_().masked_fill_(hidden, 0.0)

    def _walk(self) -> Iterator[tuple[Block, slice, Tensor, Tensor]]:
        """Every visible tile: its rows and heads, its columns, P, and which cells are visible."""
        ops = self.operands
        for part in blocks(ops):
            first, last = part.rows.start + ops.offset, part.rows.stop - 1 + ops.offset
            lo, hi = ops.mask.key_span(first, last, ops.keys)
            sequences, heads, rows = part.shape
            width = max(128, TILE_CELLS // (sequences * heads * rows))
            for j in range(lo, hi, width):
                cols = slice(j, min(j + width, hi))
                tile = scores(ops, part.batch, part.kv, part.rows, cols)
                visible = ~is_hidden(tile)
                lse = self.lse[part.batch, part.head, part.rows, None]
                tile.sub_(lse.masked_fill(lse == -torch.inf, 0.0)).clamp_(max=0.0).exp_().masked_fill_(~visible, 0.0)
                yield part, cols, tile, visible

    def _spread(self, name: str, x: Tensor, per_sequence: bool) -> Tensor:
        """x broadcast to [B, Hq, T, C]."""
        b, h = self.shape[:2]
        x = x.to(self.lse)
        x = x[:, None] if per_sequence else x
        try:
            return x.expand(b, h, *x.shape[-2:])
        except RuntimeError:
            raise ValueError(f"{name}: its leading shape {list(x.shape[:-2])} does not fit B={b}, Hq={h}") from None

    @staticmethod
    def _index(name: str, value: int, size: int) -> int:
        if not -size <= value < size:
            raise IndexError(f"{name}: expected an index in [-{size}, {size}), got {value}")
        return value % size

    @staticmethod
    def _slice(name: str, value: slice, size: int) -> slice:
        if not isinstance(value, slice) or value.step not in (None, 1):
            raise ValueError(f"{name}: expected a slice of step 1, got {value!r}")
        start, stop, _ = value.indices(size)
        return slice(start, max(start, stop))
