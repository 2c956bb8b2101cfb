"""The definition of every probe, in plain torch over the dense map: the oracle. O(T^2) memory; pass float64 for float64.

Nothing here is shared with the other backends but the mask's elementwise rule, so that a mistake shows as a difference.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from interp_kernels import probes as P
from interp_kernels.operands import Operands

HIDING = torch.finfo(torch.float32).min / 8
"""Scores at or below it are those of keys that a bias hides: -inf, or the least number that libraries write for it."""


def run(ops: Operands, probes: tuple[P.Probe, ...]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Output [B, Hq, Tq, Dv] in the inputs' dtype, log-sum-exp [B, Hq, Tq], and each probe's value."""
    attention, lse, visible = dense_map(ops)
    v = ops.v.to(ops.compute_dtype).repeat_interleave(ops.group, dim=1)
    stats: dict[str, Tensor] = {}
    for probe in probes:
        stats |= _measure(probe, ops, attention, visible)
    return (attention @ v).to(ops.v.dtype), lse, stats


def dense_map(ops: Operands) -> tuple[Tensor, Tensor, Tensor]:
    """P [B, Hq, Tq, Tk], log-sum-exp [B, Hq, Tq], and m as bool [B, Hq, Tq, Tk] (False at biases that hide, too)."""
    s, visible = dense_scores(ops)
    logits = s
    if ops.sinks is not None:
        sinks = ops.sinks if ops.sinks.ndim == 3 else ops.sinks[None, :, None]
        sinks = sinks.to(s.dtype)[..., None].expand(*s.shape[:3], 1)
        logits = torch.cat([s, sinks], dim=-1)
    # The softmax and not exp(s - lse): it loses the digits that a large log-sum-exp has before its point.
    # A row that sees no key gives NaN there without sinks; its probabilities are 0.
    attention = logits.softmax(dim=-1)[..., : ops.keys].masked_fill(~visible, 0.0)
    lse = logits.logsumexp(dim=-1)
    return attention, lse, visible


def dense_scores(ops: Operands) -> tuple[Tensor, Tensor]:
    """s [B, Hq, Tq, Tk] with -inf at hidden keys, and m."""
    dtype, device = ops.compute_dtype, ops.q.device
    i, j = _positions(ops)
    k = ops.k.to(dtype).repeat_interleave(ops.group, dim=1)
    s = ops.q.to(dtype) @ k.transpose(-1, -2) * ops.scale
    if ops.softcap is not None:
        s = ops.softcap * torch.tanh(s / ops.softcap)
    if ops.alibi is not None:
        s = s - ops.alibi.to(dtype)[:, None, None] * (i[:, None] - j[None, :]).abs()
    if ops.bias is not None:
        s = s + ops.bias.to(dtype)
    if ops.relative_bias is not None:
        entry = j[None, :] - torch.arange(ops.queries, device=device)[:, None] + ops.queries - 1
        s = s + ops.relative_bias.to(dtype)[:, entry]
    if ops.class_values is not None and ops.classes is not None:
        values = ops.class_values.to(dtype).expand(ops.batch, ops.heads, -1, -1)
        s = s + values.gather(-1, ops.classes[:, :, None].expand(s.shape))
    batch = torch.arange(ops.batch, device=device)[:, None, None, None]
    visible = ops.mask.allows(i[:, None], j[None, :], batch) & ~(s <= HIDING)
    return s.masked_fill(~visible, -torch.inf), visible


def _measure(probe: P.Probe, ops: Operands, attention: Tensor, visible: Tensor) -> dict[str, Tensor]:
    name = probe.label
    if isinstance(probe, P.Received):
        return {name: _received(probe, ops, attention, visible)}
    if isinstance(probe, P.Pooled):
        return {name: _pooled(probe, ops, attention, visible)}
    counts = _counting(probe, ops) & visible.any(dim=-1)  # [B, Hq, Tq]
    if isinstance(probe, P.Peak | P.TopK):
        value, index = _peak(attention, visible) if isinstance(probe, P.Peak) else _top(probe, ops, attention)
        stats = {name: _reduced(probe, ops, value, counts)}
        if probe.reduce == "none":
            chosen = _counting(probe, ops)
            stats[f"{name}_index"] = index.masked_fill(~(chosen if index.ndim == 3 else chosen[..., None]), -1)
        return stats
    if isinstance(probe, P.OffsetMass):
        value, pair_exists = _offset_mass(probe, ops, attention, visible)
        return {name: _reduced(probe, ops, value, counts[..., None] & pair_exists)}
    return {name: _reduced(probe, ops, _row_value(probe, ops, attention), counts)}


def _row_value(probe: P.Probe, ops: Operands, attention: Tensor) -> Tensor:
    i, j = _positions(ops)
    if isinstance(probe, P.Entropy):
        return torch.special.entr(attention).sum(dim=-1)
    if isinstance(probe, P.KeyMass):
        weights = probe.weights.to(attention.dtype)
        return attention @ (weights[:, None] if weights.ndim == 3 else weights)
    if isinstance(probe, P.LabelMatch):
        a = probe.query_labels.expand(ops.batch, -1)[:, None, :, None]
        b = probe.key_labels.expand(ops.batch, -1)[:, None, None, :]
        match = (a == b) & (a != -1)
        if probe.strict:
            match = match & (j[None, :] < i[:, None])
        return (attention * match).sum(dim=-1)
    if isinstance(probe, P.Distance):
        distance = (i[:, None] - j[None, :]).abs()
        if probe.window is not None:
            distance = distance.clamp(max=probe.window)
        return (attention * distance).sum(dim=-1)
    if isinstance(probe, P.DistanceHistogram):
        distance = (i[:, None] - j[None, :]).abs()
        bins = [(distance >= lo) & (distance < hi) for lo, hi in pairwise(probe.edges)]
        return torch.stack([(attention * inside).sum(dim=-1) for inside in bins], dim=-1)
    raise TypeError(f"the reference has no definition of {type(probe).__name__}")


def _peak(attention: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    # Visible keys alone: with a sink that takes all mass every P is 0, and the peak is still a key that is seen.
    value, index = attention.masked_fill(~visible, -1.0).max(dim=-1)
    return value.clamp(min=0.0), index.masked_fill(~visible.any(dim=-1), -1)


def _top(probe: P.TopK, ops: Operands, attention: Tensor) -> tuple[Tensor, Tensor]:
    s, visible = dense_scores(ops)
    # A stable sort leaves ties to the lower key.
    index = s.sort(dim=-1, descending=True, stable=True).indices[..., : probe.k]
    value, missing = attention.gather(-1, index), ~visible.gather(-1, index)
    beyond = (0, probe.k - index.shape[-1])
    return F.pad(value, beyond, value=0.0), F.pad(index.masked_fill(missing, -1), beyond, value=-1)


def _offset_mass(probe: P.OffsetMass, ops: Operands, attention: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    i, _ = _positions(ops)
    masses, exists = [], []
    for d in probe.offsets:
        key = i - d
        inside = (key >= 0) & (key < ops.keys)
        key = key.clamp(0, ops.keys - 1)[None, None, :, None].expand(*attention.shape[:3], 1)
        masses.append(attention.gather(-1, key).squeeze(-1) * inside)
        exists.append(visible.gather(-1, key).squeeze(-1) & inside)
    return torch.stack(masses, dim=-1), torch.stack(exists, dim=-1)


def _received(probe: P.Received, ops: Operands, attention: Tensor, visible: Tensor) -> Tensor:
    weights = torch.ones((), dtype=attention.dtype, device=attention.device)
    if probe.weights is not None:
        weights = probe.weights.to(attention.dtype)
        weights = weights[:, None, :] if weights.ndim == 2 else weights
    weights = weights * _counting(probe, ops)
    received = torch.einsum("bhi,bhij->bhj", weights, attention)
    if probe.normalize:
        received = received / torch.einsum("bhi,bhij->bhj", weights, visible.to(attention.dtype))
    return received


def _pooled(probe: P.Pooled, ops: Operands, attention: Tensor, visible: Tensor) -> Tensor:
    counted = visible & _counting(probe, ops)[..., None]
    cells = _squares(attention.masked_fill(~counted, 0.0), probe.block)
    if probe.op == "max":
        return cells.amax(dim=(3, 5))
    return cells.sum(dim=(3, 5)) / _squares(counted, probe.block).sum(dim=(3, 5)).clamp(min=1)


def _squares(x: Tensor, block: int) -> Tensor:
    """x [B, Hq, Tq, Tk] in squares, [B, Hq, ceil(Tq / block), down, ceil(Tk / block), across], filled up with zeros.

    down and across are the block, or all there is where that is less.
    """
    down, across = min(block, x.shape[2]), min(block, x.shape[3])
    x = F.pad(x, (0, -x.shape[3] % across, 0, -x.shape[2] % down))
    return x.unflatten(3, (-1, across)).unflatten(2, (-1, down))


def _counting(probe: P.Probe, ops: Operands) -> Tensor:
    """The queries that count, bool [B, Hq, Tq]."""
    queries = torch.ones(1, ops.queries, dtype=torch.bool, device=ops.q.device)
    if probe.queries is not None:
        queries = probe.queries.expand(ops.batch, -1)
    return queries[:, None, :].expand(ops.batch, ops.heads, -1)


def _reduced(probe: P.Probe, ops: Operands, value: Tensor, counts: Tensor) -> Tensor:
    """``value`` with NaN at queries that do not count, or its mean over ``counts``. The query axis is dimension 2."""
    chosen = _counting(probe, ops)
    if value.ndim == 4:
        chosen = chosen[..., None].expand_as(value)
        counts = counts if counts.ndim == 4 else counts[..., None].expand_as(value)
    if probe.reduce == "none":
        return value.masked_fill(~chosen, torch.nan)
    return value.masked_fill(~counts, 0.0).sum(dim=2) / counts.sum(dim=2)


def _positions(ops: Operands) -> tuple[Tensor, Tensor]:
    device = ops.q.device
    return torch.arange(ops.queries, device=device) + ops.offset, torch.arange(ops.keys, device=device)
