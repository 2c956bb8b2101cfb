"""How the probes that run over queries are gathered: they want each row's normaliser, so a tile comes with its row's end."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from interp_kernels import probes as P
from interp_kernels.backends.finish import Closing, query_weights
from interp_kernels.backends.tiled.accumulate import Tile
from interp_kernels.operands import Operands


class ColumnProbe:
    """A probe without a value per query. Subclasses add tiles up in ``value``."""

    def __init__(self, probe: P.Probe, ops: Operands) -> None:
        raise NotImplementedError

    def add(self, tile: Tile, closing: Closing) -> None:
        raise NotImplementedError

    def result(self) -> Tensor:
        raise NotImplementedError


class ReceivedSum(ColumnProbe):
    """Column sums: c_j += (w_i / l_i) p_ij for the rows of a block, row blocks in a fixed order, without atomics."""

    def __init__(self, probe: P.Received, ops: Operands) -> None:
        self.probe, self.ops = probe, ops
        self.weights = query_weights(probe, ops)
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


class PooledSquares(ColumnProbe):
    """Sums or maxima over squares: of P in a tile first over rows and then over columns, each cut where squares end."""

    def __init__(self, probe: P.Pooled, ops: Operands) -> None:
        self.probe, self.ops = probe, ops
        shape = (ops.batch, ops.heads, -(-ops.queries // probe.block), -(-ops.keys // probe.block))
        self.value = torch.zeros(shape, dtype=ops.compute_dtype, device=ops.q.device)
        # Whole numbers, since float32 rounds a count above 2^24.
        self.seen = torch.zeros(shape, dtype=torch.int64, device=ops.q.device) if probe.op == "mean" else None

    def add(self, tile: Tile, closing: Closing) -> None:
        block, cols, size = tile.block, tile.cols, self.probe.block
        counts = closing.seen
        p = torch.mul(tile.p, closing.inverse[..., None], out=tile.work)
        if self.probe.queries is not None:
            chosen = self.probe.queries.expand(self.ops.batch, -1)[block.batch, None, block.rows]
            counts = counts & chosen
            p.masked_fill_(~chosen[..., None], 0.0)
        down = slice(block.rows.start // size, -(-block.rows.stop // size))
        across = slice(cols.start // size, -(-cols.stop // size))
        here = (block.batch, block.head, down, across)
        if self.seen is None:
            self.value[here] = torch.maximum(self.value[here], self._squares(p, tile, torch.amax))
            return
        self.value[here] += self._squares(p, tile, torch.sum)
        visible = tile.visible() & counts[..., None]
        self.seen[here] += self._squares(tile.work.copy_(visible), tile, torch.sum).long()

    def _squares(self, x: Tensor, tile: Tile, reduce: Callable[..., Tensor]) -> Tensor:
        x = pieces(x, 2, tile.block.rows.start, self.probe.block, reduce)
        return pieces(x, 3, tile.cols.start, self.probe.block, reduce)

    def result(self) -> Tensor:
        return self.value if self.seen is None else self.value / self.seen.clamp(min=1)


def pieces(x: Tensor, dim: int, start: int, size: int, reduce: Callable[..., Tensor]) -> Tensor:
    """Reduce x along ``dim``, whose first element has index ``start``, over the pieces between multiples of ``size``."""
    n = x.shape[dim]
    head = min(-start % size, n)
    whole = (n - head) // size
    tail = n - head - whole * size
    parts: list[Tensor] = []
    if head:
        parts.append(reduce(x.narrow(dim, 0, head), dim=dim, keepdim=True))
    if whole:
        parts.append(reduce(x.narrow(dim, head, whole * size).unflatten(dim, (whole, size)), dim=dim + 1))
    if tail:
        parts.append(reduce(x.narrow(dim, n - tail, tail), dim=dim, keepdim=True))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)


COLUMN_PROBES: dict[type[P.Probe], type[ColumnProbe]] = {P.Received: ReceivedSum, P.Pooled: PooledSquares}
