"""Query selection and averaging: from a value per query to what the caller asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from interp_kernels.probes import Probe


def finished(probe: Probe, value: Tensor, seen: Tensor, exists: Tensor | None = None) -> Tensor:
    """``value`` [B, Hq, Tq] or [B, Hq, Tq, C] as ``probe.queries`` and ``probe.reduce`` ask.

    Without reduction, NaN at queries that do not count. With the mean, the average over the queries that count and see a
    key (``seen`` [B, Hq, Tq]) and, for pairs, whose pair is visible (``exists``, of the value's shape); NaN where none is.
    """
    wide = value.ndim == 4
    counts = seen[..., None] if wide else seen
    if exists is not None:
        counts = counts & exists
    if probe.queries is not None:
        chosen = probe.queries.expand(value.shape[0], -1)[:, None]
        chosen = chosen[..., None] if wide else chosen
        if probe.reduce == "none":
            return value.masked_fill(~chosen, torch.nan)
        counts = counts & chosen
    elif probe.reduce == "none":
        return value
    counts = counts.expand_as(value)
    return value.masked_fill(~counts, 0.0).sum(dim=2) / counts.sum(dim=2)


def finished_index(probe: Probe, index: Tensor) -> Tensor:
    """``index`` [B, Hq, Tq] or [B, Hq, Tq, k] with -1 at queries that do not count."""
    if probe.queries is None:
        return index
    chosen = probe.queries.expand(index.shape[0], -1)[:, None]
    return index.masked_fill(~(chosen[..., None] if index.ndim == 4 else chosen), -1)
