"""What a dossier says of a head, from dense maps and token ids alone. Shares no code with interp.

A is one passage's map [H, T, T] in float64.
"""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

from tests.interp.heads.dense_scores import copying, current_token, first_token_sink, induction_text, previous_token


def strongest(a: Tensor, ids: list[int]) -> Tensor:
    found = torch.zeros(a.shape[0], dtype=torch.float64)
    for h in range(a.shape[0]):
        for i in range(len(ids)):
            weight, key = max((float(a[h, i, j]), -j) for j in range(len(ids)))
            if -key not in (0, i):
                found[h] = max(float(found[h]), weight)
    return found


def entropy(a: Tensor, ids: list[int]) -> Tensor:
    return -(a * torch.where(a > 0, a, 1.0).log()).sum(-1).mean(-1)


def _by_query(a: Tensor) -> Tensor:
    t = a.shape[-1]
    apart = (torch.arange(t)[:, None] - torch.arange(t)[None]).abs()
    return (a * apart).sum(-1)


def distance(a: Tensor, ids: list[int]) -> Tensor:
    return _by_query(a).mean(-1)


def distance_variance(a: Tensor, ids: list[int]) -> Tensor:
    d = _by_query(a)
    return (d**2).mean(-1) - d.mean(-1) ** 2


METRICS = {
    each.__name__: each
    for each in (
        strongest,
        previous_token,
        current_token,
        first_token_sink,
        induction_text,
        copying,
        entropy,
        distance,
        distance_variance,
    )
}


def mass_by_distance(a: Tensor, edges: list[int]) -> Tensor:
    """[H, bins], mean over queries."""
    t = a.shape[-1]
    apart = (torch.arange(t)[:, None] - torch.arange(t)[None]).abs()
    bins = [(a * ((apart >= low) & (apart < high))).sum(-1).mean(-1) for low, high in itertools.pairwise(edges)]
    return torch.stack(bins, dim=-1)


def by_token(maps: list[Tensor], passages: list[list[int]]) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Token -> [H]: what its queries give to keys after the first position, and what it receives there."""
    given: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(maps[0].shape[0]))
    received: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(maps[0].shape[0]))
    for a, ids in zip(maps, passages, strict=True):
        for i in range(1, len(ids)):
            given[ids[i]] += a[:, i, 1:].sum(-1).numpy()
            received[ids[i]] += a[:, :, i].sum(-1).numpy()
    return dict(given), dict(received)
