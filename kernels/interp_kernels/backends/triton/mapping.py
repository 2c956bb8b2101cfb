"""The lazy map's methods as kernels, for checked arguments."""

from __future__ import annotations

import torch
from torch import Tensor

from interp_kernels.backends.triton.operands import prepared
from interp_kernels.backends.triton.second import VECTORS, Rows, cells, column_sums, pairs, product, squares, top
from interp_kernels.operands import Operands


class MapKernels:
    """P_ij = exp(s_ij - lse_i) of some operands; see ``interp_kernels.map.AttentionMap`` for what each method gives."""

    def __init__(self, ops: Operands, lse: Tensor) -> None:
        self.rows = Rows.from_lse(prepared(ops), lse)

    def cells(self, rows: slice | Tensor, cols: slice) -> Tensor:
        """[B, Hq, rows, cols]."""
        if isinstance(rows, slice):
            rows = torch.arange(rows.start, rows.stop, device=self.rows.shift.device)
        return cells(self.rows, rows, cols)

    def diagonal(self, d: int) -> Tensor:
        """[B, Hq, Tq]."""
        return pairs(self.rows, (d,))[0][..., 0]

    def pool(self, block: int, op: str) -> Tensor:
        """[B, Hq, R, C]."""
        return squares(self.rows, block, op)

    def topk(self, k: int) -> tuple[Tensor, Tensor]:
        """[B, Hq, Tq, k] twice."""
        return top(self.rows, k)

    def matmul(self, x: Tensor) -> Tensor:
        """x [B, Hq, Tk, C] -> [B, Hq, Tq, C]."""
        return product(self.rows, x)

    def rmatmul(self, w: Tensor) -> Tensor:
        """w [B, Hq, Tq, C] -> [B, Hq, C, Tk]."""
        vectors = w.movedim(-1, 0)
        parts = [column_sums(self.rows, part)[0] for part in vectors.split(VECTORS)]
        return torch.cat(parts).movedim(0, 2)
