"""Which tokens a head looks from and at: sums by token id, exact as long as there is room for every token that occurs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

SIDES = ("query", "key")
"""query: what tokens give to other keys than the first; key: what tokens receive from all queries."""


@dataclass(frozen=True, eq=False)
class TokenSums:
    """Attention by token id, over everything but the first position of each passage, which sinks would fill.

    Of the side "query" w_i = sum_(j > 0) A[i, j] is summed over queries i > 0 that hold the token, of "key"
    c_j = sum_i A[i, j] over keys j > 0 that hold it.

    ids     int64 [U], ascending
    counts  int64 [U], how often each token stands anywhere but first
    sums    float64 [2, U, L, H], by side
    chance  float64 [2, U, L], the same under uniform attention over the visible keys
    error   float64 [2, L, H]: a sum is too small by at most so much, and a token that is missing has at most this sum. 0 as long
            as nothing was dropped
    """

    ids: np.ndarray
    counts: np.ndarray
    sums: np.ndarray
    chance: np.ndarray
    error: np.ndarray

    @classmethod
    def zeros(cls, ids: np.ndarray, layers: int, heads: int) -> TokenSums:
        u = len(ids)
        return cls(
            ids.astype(np.int64),
            np.zeros(u, np.int64),
            np.zeros((2, u, layers, heads)),
            np.zeros((2, u, layers)),
            np.zeros((2, layers, heads)),
        )

    @classmethod
    def merged(cls, parts: Sequence[TokenSums], rows: int) -> TokenSums:
        """Added up one after the other, with at most ``rows`` tokens kept after each."""
        total = parts[0].with_at_most(rows)
        for part in parts[1:]:
            ids = np.union1d(total.ids, part.ids)
            added = cls.zeros(ids, *total.error.shape[1:])
            for each in (total, part):
                at = np.searchsorted(ids, each.ids)
                added.counts[at] += each.counts
                added.sums[:, at] += each.sums
                added.chance[:, at] += each.chance
            total = replace(added, error=total.error + part.error).with_at_most(rows)
        return total

    def with_at_most(self, rows: int) -> TokenSums:
        """The tokens with the largest shares of a head's sum, the largest over heads and sides counting; ties to the lower id.

        What is dropped goes into ``error``: of each head the largest sum among the tokens that leave. A token may leave and come
        back, and loses at most that much each time.
        """
        if len(self.ids) <= rows:
            return self
        total = self.sums.sum(axis=1, keepdims=True)
        shares = np.divide(self.sums, total, out=np.zeros_like(self.sums), where=total > 0).max(axis=(0, 2, 3))
        order = np.argsort(-shares, kind="stable")
        kept, left = np.sort(order[:rows]), order[rows:]
        return TokenSums(
            self.ids[kept],
            self.counts[kept],
            self.sums[:, kept],
            self.chance[:, kept],
            self.error + self.sums[:, left].max(axis=1),
        )

    def places(self, ids: np.ndarray) -> Tensor:
        """Where the tokens of ids [B, T] stand in ``ids``, of all positions but the first: int64 [B (T - 1)]."""
        return torch.from_numpy(np.searchsorted(self.ids, ids[:, 1:].ravel()))

    def count(self, places: Tensor) -> None:
        self.counts[:] += np.bincount(places.numpy(), minlength=len(self.ids))


def summed(values: Tensor, places: Tensor, tokens: int) -> np.ndarray:
    """Sums by token of values [B, H, T], the first position left out: float64 [tokens, H]. Added on the CPU, in order."""
    heads = values.shape[1]
    each = values[..., 1:].movedim(1, -1).reshape(-1, heads).double().cpu()  # [B (T - 1), H]
    return torch.zeros(tokens, heads, dtype=torch.float64).index_add_(0, places, each).numpy()
