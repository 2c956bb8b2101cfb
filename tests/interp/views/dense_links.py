"""Token links by their definition, from one head's whole map in float64. Shares no code with interp."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DenseLinks:
    """Of the window [start, stop): W over its queries and all tokens, and what is read off it."""

    rows: Tensor  # [n, T]
    start: int
    stop: int

    @property
    def tile(self) -> Tensor:
        return self.rows[:, self.start : self.stop]

    def sums(self) -> dict[str, Tensor]:
        return {
            "before": self.rows[:, : self.start].sum(1),
            "within": self.tile.sum(1),
            "after": self.rows[:, self.stop :].sum(1),
            "received": self.tile.sum(0),
        }

    def keys(self, top: int) -> tuple[list[list[int]], list[list[float]]]:
        return _ranked(self.rows, top, 0)

    def queries(self, top: int) -> tuple[list[list[int]], list[list[float]]]:
        return _ranked(self.tile.T, top, self.start)


def dense_links(
    p: Tensor, tokens: Tensor, start: int, stop: int, norms: Tensor | None = None, *, first: bool = True
) -> DenseLinks:
    """p [T', T'] of one head, padding included; tokens: the columns that are no padding; norms [T']; first: as a key."""
    own = p[tokens][:, tokens].double()
    if norms is not None:
        own = own * norms[tokens]
    if not first:
        own = own.clone()
        own[:, 0] = 0
    if norms is not None or not first:
        total = own.sum(1, keepdim=True)
        own = torch.where(total > 0, own / total, torch.zeros_like(own))
    return DenseLinks(own[start:stop], start, stop)


def _ranked(rows: Tensor, top: int, first: int) -> tuple[list[list[int]], list[list[float]]]:
    """Places (from ``first``) and values of each row's largest, larger first, equal ones by place; -1 and 0 beyond."""
    places, values = [], []
    for row in rows.tolist():
        order = sorted(range(len(row)), key=lambda j: (-row[j], j))[: min(top, len(row))]
        places.append([first + j if row[j] > 0 else -1 for j in order])
        values.append([row[j] for j in order])
    return places, values
