"""The k largest of each row with equal ones in the order of their places, which ``torch.topk`` does not promise."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def largest(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest along the last dimension, or all, with their places: larger first, equal ones by place.

    The k best lie in the k chunks with the best maxima, equal ones by place: only chunk maxima and k chunks are sorted.
    """
    n = x.shape[-1]
    size = math.isqrt(n // k)
    if size < 4:
        return stable_top(x, k)
    whole = n - n % size
    maxima = x[..., :whole].unflatten(-1, (-1, size)).amax(dim=-1)
    if whole < n:
        maxima = torch.cat([maxima, x[..., whole:].amax(dim=-1, keepdim=True)], dim=-1)
    chunks = stable_top(maxima, k)[1].sort(dim=-1).values
    places = (chunks[..., None] * size + torch.arange(size, device=x.device)).flatten(-2)
    # The last chunk may be short: a place beyond it stands for none, behind all that are real.
    values = x.gather(-1, places.clamp(max=n - 1)).masked_fill_(places >= n, -torch.inf)
    best, order = stable_top(values, k)
    return best, places.gather(-1, order)


def stable_top(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As ``largest``, by sorting everything. NaN counts as the largest."""
    values, places = x.sort(dim=-1, descending=True, stable=True)
    return values[..., :k], places[..., :k]
