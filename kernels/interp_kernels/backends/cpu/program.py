"""What the compiled sweeps are told: the probes of a call as plain arrays, and where each finds its sums afterwards."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from interp_kernels import probes as P
from interp_kernels.operands import Operands

SUMS = 3
"""The sums that every row has: the maximum m, l = sum exp(s - m), sum exp(s - m) (s - m). Those of probes follow."""

INT32 = torch.iinfo(torch.int32)
FAR = 1 << 62


@dataclass
class Program:
    """Probes whose sums are rows of one array, in the order labels, weights, distances, bins, offsets.

    query_labels [labels, B, Tq], key_labels [labels, B, Tk], strict [labels]; weights [n, 1 or B, 1 or Hq, Tk];
    distance_windows [n]; bins [n, 2], in tokens, closed and open; offsets [n]; top: the largest k that a TopK asks for.
    place: label of a probe -> (first row, rows) of its sums
    """

    query_labels: np.ndarray
    key_labels: np.ndarray
    strict: np.ndarray
    weights: np.ndarray
    distance_windows: np.ndarray
    bins: np.ndarray
    offsets: np.ndarray
    peak: bool
    top: int
    place: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Sums of a query, those that every row has included."""
        linear = (self.strict, self.weights, self.distance_windows, self.bins, self.offsets)
        return SUMS + sum(len(x) for x in linear)


def program(ops: Operands, probes: tuple[P.Probe, ...]) -> Program:
    """The row probes among ``probes``; those over queries (Received, Pooled) are swept by columns."""
    matches = [p for p in probes if isinstance(p, P.LabelMatch)]
    masses = [p for p in probes if isinstance(p, P.KeyMass)]
    distances = [p for p in probes if isinstance(p, P.Distance)]
    histograms = [p for p in probes if isinstance(p, P.DistanceHistogram)]
    offset_masses = [p for p in probes if isinstance(p, P.OffsetMass)]
    labels = [_labels(p, ops.batch) for p in matches]
    bins = [pair for p in histograms for pair in pairwise(p.edges)]
    told = Program(
        query_labels=_stacked([a for a, _ in labels], (0, 1, 1), np.int32),
        key_labels=_stacked([b for _, b in labels], (0, 1, 1), np.int32),
        strict=np.array([p.strict for p in matches], dtype=np.bool_),
        weights=_weights(ops, masses),
        distance_windows=np.array([np.inf if p.window is None else p.window for p in distances], dtype=np.float32),
        bins=np.array([[_finite(a), _finite(b)] for a, b in bins], dtype=np.int64).reshape(-1, 2),
        offsets=np.array([d for p in offset_masses for d in p.offsets], dtype=np.int64),
        peak=any(isinstance(p, P.Peak) for p in probes),
        top=max((p.k for p in probes if isinstance(p, P.TopK)), default=0),
    )
    at = SUMS
    widths = [
        *((p, 1) for p in matches),
        *((p, p.weights.shape[-1]) for p in masses),
        *((p, 1) for p in distances),
        *((p, len(p.edges) - 1) for p in histograms),
        *((p, len(p.offsets)) for p in offset_masses),
    ]
    for probe, width in widths:
        told.place[probe.label] = (at, width)
        at += width
    return told


def _labels(probe: P.LabelMatch, batch: int) -> tuple[Tensor, Tensor]:
    """Query and key labels as int32 [B, T]; numbered anew where they do not fit, -1 kept."""
    a, b = (x.long().expand(batch, -1) for x in (probe.query_labels, probe.key_labels))
    lowest, highest = torch.cat([a, b], dim=1).aminmax()
    if lowest < INT32.min or highest > INT32.max:
        both = torch.cat([a, b], dim=1)
        numbered = both.unique(return_inverse=True)[1].masked_fill_(both == -1, -1)
        a, b = numbered.split([a.shape[1], b.shape[1]], dim=1)
    return a.to(torch.int32), b.to(torch.int32)


def _weights(ops: Operands, masses: list[P.KeyMass]) -> np.ndarray:
    """The columns of all key weights, [n, 1 or B, 1 or Hq, Tk]: shared as far as all of them share."""
    given = [p.weights.detach().to(torch.float32) for p in masses]
    given = [w[:, None] if w.ndim == 3 else w[(None,) * (4 - w.ndim)] for w in given]  # [1 or B, 1 or Hq, Tk, C]
    b, h = (max((w.shape[dim] for w in given), default=1) for dim in (0, 1))
    return _stacked([w.expand(b, h, -1, -1).movedim(-1, 0) for w in given], (0, 1, 1, 1), np.float32, torch.cat)


def _stacked(tensors: list[Tensor], empty: tuple[int, ...], dtype: type, join=torch.stack) -> np.ndarray:
    return join(tensors).contiguous().numpy() if tensors else np.zeros(empty, dtype=dtype)


def _finite(edge: float) -> int:
    return FAR if edge == math.inf else min(int(edge), FAR)
