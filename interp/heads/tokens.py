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


def previous_ids(ids: Tensor) -> Tensor:
    """The id before each position, -1 (which matches nothing) at the first. ids: [B, T]."""
    shifted = torch.full_like(ids, -1)
    shifted[:, 1:] = ids[:, :-1]
    return shifted


def next_ids(ids: Tensor) -> Tensor:
    """The id after each position, -1 (which matches nothing) at the last. ids: [B, T]."""
    shifted = torch.full_like(ids, -1)
    shifted[:, :-1] = ids[:, 1:]
    return shifted
