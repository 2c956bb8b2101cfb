"""Small attention of many kinds as dense maps in float64, and what its views must show, from the definitions alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

import interp_kernels as ik

HEADS, KV_HEADS, WIDTH = 4, 2, 8


@dataclass(frozen=True, eq=False)
class Case:
    """A lazy map, and the same written out: p and visible [B, H, Tq, Tk], norms of values [B, H, Tk]."""

    lazy: ik.AttentionMap
    p: np.ndarray
    visible: np.ndarray
    norms: np.ndarray
    largest_score: float


@dataclass(frozen=True, eq=False)
class Kind:
    """queries, keys; mask(keys): ours; sees(b, i, j): the same for query index i and key j, elementwise; offset of positions;
    cut: edges that a bias hides, (i, j) -> bool."""

    queries: int
    keys: int
    mask: Callable[[int], ik.Mask]
    sees: Callable[[int, np.ndarray, np.ndarray], np.ndarray]
    sinks: bool = False
    cut: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None


def _left(keys: int) -> np.ndarray:
    keep = np.ones((2, keys), dtype=bool)
    keep[1, :19] = False
    return keep


def _right(keys: int) -> np.ndarray:
    keep = np.ones((2, keys), dtype=bool)
    keep[1, -23:] = False
    return keep


def _documents(keys: int) -> np.ndarray:
    return np.stack([np.arange(keys) // 37, np.arange(keys) // 50])


KINDS = {
    "causal": Kind(90, 90, lambda n: ik.Mask.causal(), lambda b, i, j: j <= i),
    "window": Kind(90, 90, lambda n: ik.Mask.causal(window=13), lambda b, i, j: (j <= i) & (i - j < 13)),
    "both ways": Kind(90, 90, lambda n: ik.Mask.full(), lambda b, i, j: j >= 0),
    "padded left": Kind(
        90,
        90,
        lambda n: ik.Mask.causal() & ik.Mask.from_padding(torch.from_numpy(_left(n))),
        lambda b, i, j: (j <= i) & _left(90)[b, j],
    ),
    "padded right": Kind(
        90,
        90,
        lambda n: ik.Mask.full() & ik.Mask.from_padding(torch.from_numpy(_right(n))),
        lambda b, i, j: _right(90)[b, j] & (i >= 0),
    ),
    "documents": Kind(
        90,
        90,
        lambda n: ik.Mask.causal() & ik.Mask.from_documents(torch.from_numpy(_documents(n))),
        lambda b, i, j: (j <= i) & (_documents(90)[b, i] == _documents(90)[b, j]),
    ),
    "cross": Kind(35, 90, lambda n: ik.Mask.full(), lambda b, i, j: j >= 0),
    "cached keys": Kind(35, 90, lambda n: ik.Mask.causal(), lambda b, i, j: j <= i + 55),
    "every third": Kind(
        90,
        90,
        lambda n: ik.Mask.from_predicate(lambda b, i, j: (i + 2 * j + b) % 3 != 0),
        lambda b, i, j: (i + 2 * j + b) % 3 != 0,
    ),
    "sink logits": Kind(90, 90, lambda n: ik.Mask.causal(), lambda b, i, j: j <= i, sinks=True),
    "cut edges": Kind(
        90,
        90,
        lambda n: ik.Mask.causal(),
        lambda b, i, j: j <= i,
        cut=lambda i, j: (i > 40) & (j % 5 == 1),
    ),
}


def case(kind: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> Case:
    """The attention of a kind, on two sequences of four query heads and two KV heads."""
    of = KINDS[kind]
    draw = torch.Generator().manual_seed(seed)
    q = (2 * torch.randn(2, HEADS, of.queries, WIDTH, generator=draw)).to(dtype)
    k = torch.randn(2, KV_HEADS, of.keys, WIDTH, generator=draw).to(dtype)
    v = torch.randn(2, KV_HEADS, of.keys, WIDTH, generator=draw).to(dtype)
    logits = torch.randn(HEADS, generator=draw).to(dtype) if of.sinks else None
    i, j = np.arange(of.queries)[:, None], np.arange(of.keys)[None]
    cut, bias = np.zeros((of.queries, of.keys), dtype=bool), None
    if of.cut is not None:
        cut = of.cut(i, j)
        values = torch.zeros(of.queries, 2, dtype=dtype)
        values[41:, 1] = -torch.inf
        bias = ik.ClassBias(values, (torch.arange(of.keys) % 5 == 1).long())
    lazy = ik.attend(q, k, v, mask=of.mask(of.keys), sinks=logits, class_bias=bias).map
    visible = np.stack([np.broadcast_to(of.sees(b, i, j), cut.shape) & ~cut for b in range(2)])[:, None]
    group = HEADS // KV_HEADS
    wide_q, wide_k, wide_v = (x.double().numpy() for x in (q, k, v))
    p = np.zeros((2, HEADS, of.queries, of.keys))
    norms = np.zeros((2, HEADS, of.keys))
    largest = 0.0
    for b, h in np.ndindex(2, HEADS):
        s = wide_q[b, h] @ wide_k[b, h // group].T / np.sqrt(WIDTH)
        largest = max(largest, float((np.abs(wide_q[b, h]) @ np.abs(wide_k[b, h // group]).T).max() / np.sqrt(WIDTH)))
        e = np.where(visible[b, 0], np.exp(s), 0.0)
        total = e.sum(axis=1, keepdims=True) + (0.0 if logits is None else np.exp(float(logits[h])))
        p[b, h] = np.divide(e, total, out=np.zeros_like(e), where=total > 0)
        norms[b, h] = np.sqrt((wide_v[b, h // group] ** 2).sum(axis=1))
    return Case(lazy, p, np.broadcast_to(visible, p.shape), norms, largest)


def shown(of: Case, b: int, h: int, weighting: str, sinks: tuple[int, ...] = ()) -> np.ndarray:
    """The numbers of one head, NaN where nothing can be seen."""
    p, visible = of.p[b, h], of.visible[b, h]
    if weighting == "value":
        value = p * of.norms[b, h]
    elif weighting == "no_sink":
        others = np.ones(p.shape[1], dtype=bool)
        others[list(sinks)] = False
        left = p[:, others].sum(axis=1, keepdims=True)
        value = np.divide(p, left, out=np.zeros_like(p), where=left > 0)
        visible = visible & others & (left > 0)
    else:
        value = p
    return np.where(visible, value, np.nan)


def squares(value: np.ndarray, block: int, op: str) -> np.ndarray:
    """Mean of what is seen, or maximum, in squares from the first row and column; NaN where nothing is."""
    found = np.full((-(-value.shape[0] // block), -(-value.shape[1] // block)), np.nan)
    for r, c in np.ndindex(*found.shape):
        cells = value[r * block : (r + 1) * block, c * block : (c + 1) * block]
        cells = cells[~np.isnan(cells)]
        if cells.size:
            found[r, c] = cells.mean() if op == "mean" else cells.max()
    return found


def relative_bound(of: Case, cells: int = 1) -> float:
    """How far a float32 number of the map may lie from float64, relative to it.

    A score is a sum of WIDTH products, so it errs by at most (WIDTH + 2) eps sum |q||k| scale; the log-sum-exp by as much, and by
    its own rounding; the exponential turns what they err by into a relative error. A sum of n terms of one sign adds n eps.
    """
    eps = float(torch.finfo(torch.float32).eps)
    of_score = (WIDTH + 2) * eps * of.largest_score
    return 2 * of_score + (of.largest_score + 10) * eps + (cells + 200) * eps
