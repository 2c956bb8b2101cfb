"""Which tokens came before: label arithmetic on token ids that detectors share."""

from __future__ import annotations

import torch
from torch import Tensor


def has_earlier_copy(ids: Tensor) -> Tensor:
    """Whether the same id stands earlier in its sequence. ids: [B, T] -> bool [B, T], in O(T log T)."""
    order = ids.argsort(dim=-1, stable=True)
    sorted_ids = ids.gather(-1, order)
    repeated = torch.zeros_like(ids, dtype=torch.bool)
    repeated[:, 1:] = sorted_ids[:, 1:] == sorted_ids[:, :-1]
    return torch.zeros_like(repeated).scatter(-1, order, repeated)


def occurrence(ids: Tensor) -> Tensor:
    """How many copies of the id stand earlier in its sequence; 0 for negative ids. ids: [B, T] -> int64 [B, T], in O(T log T)."""
    order = ids.argsort(dim=-1, stable=True)
    sorted_ids = ids.gather(-1, order)
    place = torch.arange(ids.shape[-1], device=ids.device).expand_as(ids)
    first = torch.zeros_like(ids)
    first[:, 1:] = torch.where(sorted_ids[:, 1:] != sorted_ids[:, :-1], place[:, 1:], 0)
    rank = place - first.cummax(dim=-1).values
    return torch.zeros_like(ids).scatter(-1, order, rank) * (ids >= 0)


def shifted(ids: Tensor, by: int) -> Tensor:
    """The id that stands ``by`` positions before each position (after it where negative); -1 where there is none. ids: [B, T]."""
    out = torch.full_like(ids, -1)
    size = ids.shape[-1]
    if by >= 0:
        out[:, by:] = ids[:, : max(0, size - by)]
    else:
        out[:, : max(0, size + by)] = ids[:, -by:]
    return out


def previous_ids(ids: Tensor) -> Tensor:
    """The id before each position, -1 (which matches nothing) at the first. ids: [B, T]."""
    return shifted(ids, 1)


def next_ids(ids: Tensor) -> Tensor:
    """The id after each position, -1 at the last. ids: [B, T]."""
    return shifted(ids, -1)
