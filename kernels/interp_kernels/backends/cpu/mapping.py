"""The lazy map's products, pooling and order as passes of compiled sweeps, for checked arguments."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from interp_kernels import probes as P
from interp_kernels.backends.cpu import passes
from interp_kernels.backends.cpu.columns import PooledColumns, ReceivedColumns, column_pass
from interp_kernels.backends.tiled.mapping import MapTiles


class MapSweeps(MapTiles):
    """The lazy map where walks over all of it are compiled. What reads a few tiles is inherited."""

    def pool(self, block: int, op: str, rows: Tensor | None = None, cols: Tensor | None = None) -> Tensor:
        """[B, Hq, R, C]. rows [B, Hq, Tq], cols [B, Hq, Tk]: factors of P."""
        squares = PooledColumns(self.operands, block, largest=op == "max")
        shift, factor = self._shift_and_factor()
        factor = factor if rows is None else factor * rows
        column_pass(self.operands, shift, factor, [], [squares], col_factors=cols)
        return squares.result()

    def topk(self, k: int) -> tuple[Tensor, Tensor]:
        """[B, Hq, Tq, k] twice."""
        _, _, stats = passes.run(replace(self.operands, v=self.operands.v[..., :1]), (P.TopK(k),))
        return stats["top_k"], stats["top_k_index"]

    def matmul(self, x: Tensor) -> Tensor:
        """x [B, Hq, Tk, C] -> [B, Hq, Tq, C]: attention with x in the place of v."""
        ops, group = self.operands, self.operands.group
        b, h, keys, columns = x.shape
        x = x.to(torch.float32)
        if group == 1:
            return passes.run(replace(ops, v=x), ())[0]
        # The query heads of a KV head share one product: their columns stand side by side, and each takes its own.
        side_by_side = x.view(b, ops.kv_heads, group, keys, columns).movedim(2, 3).flatten(3)
        output = passes.run(replace(ops, v=side_by_side), ())[0]
        output = output.view(b, ops.kv_heads, group, ops.queries, group, columns)
        own = torch.arange(group, device=output.device)
        return output[:, :, own, :, own].movedim(0, 2).reshape(b, h, ops.queries, columns)

    def rmatmul(self, w: Tensor) -> Tensor:
        """w [B, Hq, Tq, C] -> [B, Hq, C, Tk]."""
        sums = [ReceivedColumns(self.operands, column) for column in w.detach().to(torch.float32).unbind(-1)]
        column_pass(self.operands, *self._shift_and_factor(), sums, [])
        return torch.stack([x.result() for x in sums], dim=2)

    def _shift_and_factor(self) -> tuple[Tensor, Tensor]:
        """exp(s - lse), and 0 in rows that see no key."""
        empty = self.lse == -torch.inf
        return self.lse.masked_fill(empty, 0.0), (~empty).to(torch.float32)
