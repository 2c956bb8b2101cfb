"""What ends a row: the factors that close its sums, and how a value per query becomes what the caller asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from interp_kernels.operands import Operands
from interp_kernels.probes import Probe, Received
from interp_kernels.tiles import is_hidden


@dataclass(frozen=True)
class Closing:
    """What a row's end gives, each [b, h, rows]: 1 / l (0 for rows that see no key), ln l, and whether a key is seen."""

    inverse: Tensor
    log_total: Tensor
    seen: Tensor


def close(maximum: Tensor, total: Tensor, sinks: Tensor | None) -> tuple[Closing, Tensor]:
    """The factors that close a row's sums, and its log-sum-exp, from m and l = sum_j exp(s_j - m) over the keys.

    maximum, total [b, h, rows]; sinks, broadcastable to them, take their share of the mass.
    """
    # Written so that NaN counts as seen: it must show in the results, not vanish as an empty row.
    seen = ~is_hidden(maximum)
    if sinks is None:
        log_total = total.log()
        inverse = 1 / total
        lse = torch.where(seen, maximum + log_total, -torch.inf)
    else:
        sink = sinks.to(maximum.dtype).expand_as(maximum)
        top = torch.maximum(maximum, sink)
        total = total * torch.exp(maximum - top) * seen + torch.exp(sink - top)
        inverse = torch.exp(maximum - top) / total
        log_total = (top - maximum) + total.log()
        lse = top + total.log()
    closing = Closing(inverse=torch.where(seen, inverse, 0.0), log_total=torch.where(seen, log_total, 0.0), seen=seen)
    return closing, lse


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


def query_weights(probe: Received, ops: Operands) -> Tensor:
    """What each query weighs in ``Received``, [B, Hq, Tq] in the dtype of sums: ``probe.weights``, 0 where it does not count."""
    weights = torch.ones(1, dtype=ops.compute_dtype, device=ops.q.device)
    if probe.weights is not None:
        weights = probe.weights.detach().to(ops.compute_dtype)
        weights = weights[:, None] if weights.ndim == 2 else weights
    if probe.queries is not None:
        weights = weights * probe.queries.expand(ops.batch, -1)[:, None]
    return weights.expand(ops.batch, ops.heads, ops.queries)
