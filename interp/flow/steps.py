"""One attention as a step of rollout and attention flow: which share of what goes out comes from what goes in.

    Abar_qk = a_q F_qk + e_q [q = k],    F = the mean (or the maximum) over the chosen heads of P

with a_q = e_q = 1 / (1 + s_q), s_q the sum of row q of F. With ordinary softmax attention s_q = 1 and Abar = 0.5 F + 0.5 I.
The map is never built: what is taken of it are products with the lazy map, or blocks of its rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from interp.errors import InputError
from interp.models.layers import LayerKey
from interp_kernels import AttentionMap

Fusion = Literal["mean", "max"]
FUSIONS: tuple[Fusion, ...] = ("mean", "max")

BLOCK_CELLS = 1 << 22
"""Cells of the map, over all heads and sequences, that are held where rows are needed: 17 MB in float32."""


@dataclass(frozen=True)
class Rule:
    """How a step's shares are made of the heads' maps.

    residual   half of what a token is comes from itself; without, all of it through attention
    fusion     F is the mean over the chosen heads, or their maximum
    normalize  rows of Abar sum to 1 (see the module); without, Abar = 0.5 F + 0.5 I (or F), whose rows sum to less where a
               sink logit takes a part
    """

    residual: bool = True
    fusion: Fusion = "mean"
    normalize: bool = True

    def __post_init__(self) -> None:
        if self.fusion not in FUSIONS:
            raise InputError(f"fusion: expected 'mean' or 'max', got {self.fusion!r}")
        for name in ("residual", "normalize"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name}: expected True or False, got {getattr(self, name)!r}")
        if self.fusion == "max" and not self.normalize:
            raise InputError(
                "normalize: rows of the maximum over heads sum to more than 1, so they must be normalised; leave out "
                "normalize=False, or use fusion='mean'"
            )

    def factors(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """a and e of each row, from the row's sum s. A row without keys keeps what it has; without residual it is lost."""
        if not self.normalize:
            share = 0.5 if self.residual else 1.0
            return torch.full_like(sums, share), torch.full_like(sums, share if self.residual else 0.0)
        if self.residual:
            return 1 / (1 + sums), 1 / (1 + sums)
        return torch.where(sums > 0, 1 / sums.clamp(min=torch.finfo(sums.dtype).tiny), 0.0), torch.zeros_like(sums)


@dataclass(frozen=True, eq=False)
class Step:
    """One attention: nodes of the side ``queries`` draw on nodes of the side ``keys``, and on themselves.

    heads: the query heads that count; lazy: their layer's map [B, Hq, Tq, Tk]
    """

    layer: LayerKey
    lazy: AttentionMap
    heads: tuple[int, ...]
    queries: str
    keys: str
    rule: Rule

    @property
    def has_all_heads(self) -> bool:
        return len(self.heads) == self.lazy.shape[1]

    def pull(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Weights on what goes out, r [B, Tq, C], as weights on what goes in: on the keys [B, Tk, C], and left on itself.

        fusion="mean": O(T) memory, by ``AttentionMap.rmatmul``. fusion="max": O(T^2) time and ``BLOCK_CELLS`` cells.
        """
        if self.rule.fusion == "mean":
            attended, stays = (factor[..., None] * r for factor in self.rule.factors(self.row_sums()))
            return self._mean_of_products(attended), stays
        moved = r.new_zeros(r.shape[0], self.lazy.shape[3], r.shape[2])
        stays = torch.zeros_like(r)
        used = r.ne(0).any(dim=0).any(dim=-1).nonzero().flatten()
        # Rows that hold no weight are not computed: all but one at the first step of one position.
        if used.numel():
            for rows in self.row_blocks(int(used[0]), int(used[-1]) + 1):
                fused = self.fused(rows)
                a, e = self.rule.factors(fused.sum(dim=-1))
                moved += fused.transpose(-1, -2) @ (a[..., None] * r[:, rows])
                stays[:, rows] = e[..., None] * r[:, rows]
        return moved, stays

    def row_sums(self) -> Tensor:
        """s [B, Tq] of the mean over the chosen heads: 1 but for sink logits and rows without keys."""
        lazy, heads = self.lazy, list(self.heads)
        if lazy.operands.sinks is None:
            return lazy.lse[:, heads].gt(-torch.inf).to(lazy.lse).mean(dim=1)
        return lazy.matmul(lazy.lse.new_ones(lazy.shape[3], 1))[:, heads, :, 0].mean(dim=1)

    def fused(self, rows: slice, sequence: int | None = None) -> Tensor:
        """F [B, n, Tk] of a block of rows; [1, n, Tk] of one sequence."""
        cols, batch = slice(0, self.lazy.shape[3]), self.lazy.shape[0]
        if self.has_all_heads and (sequence is None or batch == 1):
            return self._over_heads(self.lazy.tile(rows, cols))
        of_sequences = []
        for b in range(batch) if sequence is None else (sequence,):
            tiles = [self.lazy.head(b, h).tile(rows, cols)[0] for h in self.heads]
            of_sequences.append(self._over_heads(torch.stack(tiles, dim=1)))
        return torch.cat(of_sequences)

    def row_blocks(self, start: int, stop: int) -> Iterator[slice]:
        """Consecutive blocks of the rows from ``start`` to ``stop``."""
        b, _, _, keys = self.lazy.shape
        size = max(1, BLOCK_CELLS // (b * len(self.heads) * keys))
        for first in range(start, stop, size):
            yield slice(first, min(first + size, stop))

    def _over_heads(self, tile: Tensor) -> Tensor:
        return tile.mean(dim=1) if self.rule.fusion == "mean" else tile.amax(dim=1)

    def _mean_of_products(self, r: Tensor) -> Tensor:
        """mean_h P_h^T r, [B, Tk, C]."""
        if self.has_all_heads:
            return self.lazy.rmatmul(r[:, None]).mean(dim=1)
        products = []
        for b in range(self.lazy.shape[0]):
            of_heads = [self.lazy.head(b, h).rmatmul(r[b][None, None])[0, 0] for h in self.heads]
            products.append(torch.stack(of_heads).mean(dim=0))
        return torch.stack(products)
