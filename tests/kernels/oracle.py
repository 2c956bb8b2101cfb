"""An independent oracle: attention and every probe from their definitions, in plain numpy, one row at a time.

It shares no code with interp_kernels; of a probe it reads the declared fields alone. Handed a map of float32 the probes
are computed in float32, which is how the statistics of plain attention in low precision are had (see ``rounding``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

import interp_kernels as ik

HIDING_BIAS = -4e37
"""A bias below it hides the key: -inf, and the smallest float32 or bfloat16 that libraries write in its place."""


@dataclass(frozen=True)
class Sight:
    """Who sees whom, as data: the conditions that must all hold. Positions: query index + offset, key index."""

    offset: int
    causal: bool = False
    windows: tuple[int, ...] = ()
    keeps: tuple[np.ndarray, ...] = ()
    documents: tuple[np.ndarray, ...] = ()
    predicates: tuple[Callable[..., np.ndarray], ...] = ()

    def visible(self, batch: int, queries: int, keys: int) -> np.ndarray:
        """m, bool [B, Tq, Tk]."""
        seen = np.ones((batch, queries, keys), dtype=bool)
        j = np.arange(keys)
        for b in range(batch):
            for row in range(queries):
                i = row + self.offset
                if self.causal:
                    seen[b, row] &= j <= i
                for window in self.windows:
                    seen[b, row] &= (j > i - window) & (j < i + window)
                for keep in self.keeps:
                    seen[b, row] &= keep[b]
                for ids in self.documents:
                    seen[b, row] &= ids[b, :keys] == ids[b, i]
                for predicate in self.predicates:
                    seen[b, row] &= predicate(b, i, j)
        return seen


@dataclass(frozen=True)
class Map:
    """An attention map written out: P, m and the scores [B, H, Tq, Tk], the log-sum-exp [B, H, Tq], the first position."""

    p: np.ndarray
    visible: np.ndarray
    scores: np.ndarray
    lse: np.ndarray
    offset: int
    one_by_one: bool = False
    """Add terms up one after another; else as numpy does, in pairs of blocks. It matters in float32 alone."""

    def total(self, terms: np.ndarray, axis: int = 0) -> np.ndarray:
        if not self.one_by_one or not terms.shape[axis]:
            return terms.sum(axis=axis)
        return np.take(terms.cumsum(axis=axis), -1, axis=axis)

    def rows(self) -> Iterator[tuple[int, int, int]]:
        return iter(np.ndindex(*self.p.shape[:3]))


def attention_map(
    q: np.ndarray,
    k: np.ndarray,
    sight: Sight,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: np.ndarray | None = None,
    alibi: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    class_values: np.ndarray | None = None,
    classes: np.ndarray | None = None,
) -> Map:
    """The map of q [B, Hq, Tq, D] and k [B, Hkv, Tk, D]. sinks: [Hq] or [B, Hq, Tq]; bias: broadcastable, or relative
    [Hq, Tq + Tk - 1]; class_values: [Tq, C] or [B or 1, Hq or 1, Tq, C], with classes [Tk] or [B or 1, Hq or 1, Tk]."""
    batch, heads, queries, width = q.shape
    kv_heads, keys = k.shape[1:3]
    scale = width**-0.5 if scale is None else scale
    visible = np.repeat(sight.visible(batch, queries, keys)[:, None], heads, axis=1)
    scores = np.full((batch, heads, queries, keys), -np.inf)
    p = np.zeros_like(scores)
    lse = np.full((batch, heads, queries), -np.inf)
    j = np.arange(keys)
    for b, h, row in np.ndindex(batch, heads, queries):
        s = scale * (k[b, h // (heads // kv_heads)] @ q[b, h, row])
        if softcap is not None:
            s = softcap * np.tanh(s / softcap)
        if alibi is not None:
            s = s - alibi[h] * np.abs(row + sight.offset - j)
        if bias is not None:
            if bias.shape == (heads, queries + keys - 1):
                added = bias[h, j - row + queries - 1]
            else:
                added = np.broadcast_to(bias, (batch, heads, queries, keys))[b, h, row]
            visible[b, h, row] &= added >= HIDING_BIAS
            s = s + added
        if class_values is not None and classes is not None:
            of_row = _of_head(class_values, b, h, 2)[row]
            added = np.array([of_row[kind] for kind in _of_head(classes, b, h, 1)])
            visible[b, h, row] &= added >= HIDING_BIAS
            s = s + added
        seen = visible[b, h, row]
        sink = -np.inf if sinks is None else sinks[h] if sinks.ndim == 1 else sinks[b, h, row]
        top = max([sink, *s[seen]])
        if top == -np.inf:
            continue
        scores[b, h, row, seen] = s[seen]
        total = np.exp(s[seen] - top).sum() + np.exp(sink - top)
        p[b, h, row, seen] = np.exp(s[seen] - top) / total
        lse[b, h, row] = top + np.log(total)
    return Map(p, visible, scores, lse, sight.offset)


def _of_head(x: np.ndarray, b: int, h: int, ndim: int) -> np.ndarray:
    """What x, of ``ndim`` dimensions or with [B or 1, Hq or 1] before them, holds for a head."""
    return x if x.ndim == ndim else x[b if x.shape[0] > 1 else 0, h if x.shape[1] > 1 else 0]


def output(m: Map, v: np.ndarray) -> np.ndarray:
    """sum_j P_ij v_j, with query head h on KV head h // group."""
    group = m.p.shape[1] // v.shape[1]
    return np.stack([m.p[:, h] @ v[:, h // group] for h in range(m.p.shape[1])], axis=1)


def measure(probe: ik.Probe, m: Map) -> dict[str, np.ndarray]:
    """What ``Attended.stats`` must hold for this probe."""
    if isinstance(probe, ik.Received):
        return {probe.label: received(probe, m)}
    if isinstance(probe, ik.Pooled):
        return {probe.label: pooled(probe, m)}
    if isinstance(probe, ik.TopK):
        value, index = top(probe, m)
        exists = every_place(sees(m), value)
    elif isinstance(probe, ik.OffsetMass):
        (value, exists), index = offset_mass(probe, m), None
    else:
        value, index = row_value(probe, m), peak_index(m) if isinstance(probe, ik.Peak) else None
        exists = every_place(sees(m), value)
    stats = {probe.label: chosen(probe, m, value, exists)}
    if index is not None and probe.reduce == "none":
        stats[f"{probe.label}_index"] = np.where(counting(probe, index), index, -1)
    return stats


def every_place(of_rows: np.ndarray, value: np.ndarray) -> np.ndarray:
    """What holds of a row, [B, H, Tq], for each of its values."""
    return np.broadcast_to(of_rows.reshape(of_rows.shape + (1,) * (value.ndim - 3)), value.shape)


def sees(m: Map) -> np.ndarray:
    return np.logical_or.reduce(m.visible, axis=-1)


def chosen(probe: ik.Probe, m: Map, value: np.ndarray, exists: np.ndarray) -> np.ndarray:
    """NaN at queries that do not count; or the mean over those that count and exist, NaN where there is none."""
    counts = counting(probe, value)
    if probe.reduce == "none":
        return np.where(counts, value, np.nan)
    mean = np.full(value.shape[:2] + value.shape[3:], np.nan, dtype=value.dtype)
    for at in np.ndindex(mean.shape):
        b, h, *column = at
        here = (b, h, slice(None), *column)
        these = value[here][counts[here] & exists[here]]
        if these.size:
            mean[at] = m.total(these) / these.size
    return mean


def counting(probe: ik.Probe, value: np.ndarray) -> np.ndarray:
    """Which values are of queries that count; value: [B, H, Tq, ...]."""
    counts = np.ones(value.shape, dtype=bool)
    if probe.queries is not None:
        given = probe.queries.numpy()
        for b in range(value.shape[0]):
            counts[b][:, ~(given if given.ndim == 1 else given[b])] = False
    return counts


def row_value(probe: ik.Probe, m: Map) -> np.ndarray:
    """The probes that are one sum or maximum over a row."""
    j = np.arange(m.p.shape[-1])
    width = (probe.weights.shape[-1],) if isinstance(probe, ik.KeyMass) else ()
    width = (len(probe.edges) - 1,) if isinstance(probe, ik.DistanceHistogram) else width
    value = np.zeros(m.lse.shape + width, dtype=m.p.dtype)
    for b, h, row in m.rows():
        p, i = m.p[b, h, row], row + m.offset
        if isinstance(probe, ik.Entropy):
            value[b, h, row] = -m.total(p[p > 0] * np.log(p[p > 0]))
        elif isinstance(probe, ik.Peak):
            value[b, h, row] = p.max()
        elif isinstance(probe, ik.KeyMass):
            weights = probe.weights.numpy().astype(m.p.dtype)
            weights = weights if weights.ndim == 2 else weights[b] if weights.ndim == 3 else weights[b, h]
            value[b, h, row] = m.total(p[:, None] * weights)
        elif isinstance(probe, ik.LabelMatch):
            a, labels = probe.query_labels.numpy(), probe.key_labels.numpy()
            a, labels = a if a.ndim == 1 else a[b], labels if labels.ndim == 1 else labels[b]
            match = (labels == a[row]) & (labels != -1) & ((j < i) | (not probe.strict))
            value[b, h, row] = m.total(p[match])
        elif isinstance(probe, ik.Distance):
            far = np.inf if probe.window is None else probe.window
            value[b, h, row] = m.total(p * np.minimum(np.abs(i - j), far).astype(m.p.dtype))
        elif isinstance(probe, ik.DistanceHistogram):
            for c in range(*width):
                inside = (np.abs(i - j) >= probe.edges[c]) & (np.abs(i - j) < probe.edges[c + 1])
                value[b, h, row, c] = m.total(p[inside])
        else:
            raise TypeError(f"the oracle has no definition of {type(probe).__name__}")
    return value


def peak_index(m: Map) -> np.ndarray:
    """The lowest key with the largest score, -1 where none is visible."""
    return np.where(sees(m), m.scores.argmax(axis=-1), -1)


def top(probe: ik.TopK, m: Map) -> tuple[np.ndarray, np.ndarray]:
    """The largest probabilities and their keys, by score and then by key; 0 and -1 beyond the visible keys."""
    value = np.zeros((*m.lse.shape, probe.k), dtype=m.p.dtype)
    index = np.full(value.shape, -1, dtype=np.int64)
    for b, h, row in m.rows():
        keys = np.flatnonzero(m.visible[b, h, row])
        best = sorted(keys, key=lambda j, s=m.scores[b, h, row]: (-s[j], j))[: probe.k]
        value[b, h, row, : len(best)] = m.p[b, h, row, best]
        index[b, h, row, : len(best)] = best
    return value, index


def offset_mass(probe: ik.OffsetMass, m: Map) -> tuple[np.ndarray, np.ndarray]:
    """P_i,(i-d), and where that pair is visible."""
    keys = m.p.shape[-1]
    value = np.zeros((*m.lse.shape, len(probe.offsets)), dtype=m.p.dtype)
    exists = np.zeros(value.shape, dtype=bool)
    for b, h, row in m.rows():
        for c, d in enumerate(probe.offsets):
            j = row + m.offset - d
            if 0 <= j < keys:
                value[b, h, row, c] = m.p[b, h, row, j]
                exists[b, h, row, c] = m.visible[b, h, row, j]
    return value, exists


def received(probe: ik.Received, m: Map) -> np.ndarray:
    """sum_i w_i P_ij, divided by sum_i w_i m_ij if normalised."""
    weights = np.ones(m.lse.shape, dtype=m.p.dtype)
    if probe.weights is not None:
        given = probe.weights.numpy().astype(m.p.dtype)
        weights *= given[:, None] if given.ndim == 2 else given
    if probe.queries is not None:
        given = probe.queries.numpy()
        weights *= given[:, None] if given.ndim == 2 else given
    total = m.total(weights[..., None] * m.p, axis=2)
    if not probe.normalize:
        return total
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / (weights[..., None] * m.visible).sum(axis=2)


def pooled(probe: ik.Pooled, m: Map) -> np.ndarray:
    """Mean or maximum of the visible cells of counting queries in every square, 0 where there is none."""
    n = probe.block
    visible = m.visible & counting(probe, m.visible)
    batch, heads, queries, keys = m.p.shape
    value = np.zeros((batch, heads, -(-queries // n), -(-keys // n)), dtype=m.p.dtype)
    for b, h, i, j in np.ndindex(*value.shape):
        square = (b, h, slice(i * n, (i + 1) * n), slice(j * n, (j + 1) * n))
        cells = m.p[square][visible[square]]
        if cells.size:
            value[b, h, i, j] = m.total(cells) / cells.size if probe.op == "mean" else cells.max()
    return value
