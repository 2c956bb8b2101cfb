"""Which row statistics the forward kernel shall gather for the probes of a call, and where each probe finds its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp_kernels import probes as P
from interp_kernels.backends.triton.operands import constants
from interp_kernels.operands import Operands

UNCLIPPED = 1 << 30
"""The reach of a distance without a window: beyond every sequence."""


class RowStatistics:
    """The linear statistics of some probes: label matches first, then the columns of key masses, then distances."""

    def __init__(self, ops: Operands, probes: tuple[P.Probe, ...]) -> None:
        self.ops = ops
        self.labels = [probe for probe in probes if isinstance(probe, P.LabelMatch)]
        self.masses = [probe for probe in probes if isinstance(probe, P.KeyMass)]
        self.distances = [probe for probe in probes if isinstance(probe, P.Distance)]
        self.columns = sum(probe.weights.shape[-1] for probe in self.masses)
        self.weights = self._weights()

    @property
    def count(self) -> int:
        return len(self.labels) + self.columns + len(self.distances)

    @property
    def is_per_head(self) -> bool:
        """Whether key masses differ between heads, so that heads cannot share a block."""
        return self.weights is not None and self.weights.shape[2] > 1

    def arguments(self) -> dict[str, Any]:
        """The arguments of the forward kernel."""
        ops, weights = self.ops, self.weights
        strict = sum(1 << n for n, probe in enumerate(self.labels) if probe.strict)
        given: dict[str, Any] = {
            "query_label_ptr": None,
            "label_ptr": None,
            "query_label_n": ops.batch * ops.queries,
            "label_n": ops.batch * ops.keys,
            "weight_ptr": weights,
            "weight_b": 0,
            "weight_h": 0,
            "weight_c": 0,
            "reach_ptr": None,
            "LABELS": len(self.labels),
            "STRICT": strict,
            "MASSES": self.columns,
            "DISTANCES": len(self.distances),
        }
        if self.labels:
            pairs = [_ranks(probe, ops.batch) for probe in self.labels]
            given["query_label_ptr"] = torch.stack([queries for queries, _ in pairs])
            given["label_ptr"] = torch.stack([keys for _, keys in pairs])
        if weights is not None:
            c, b, h, _ = weights.stride()
            given |= {
                "weight_c": c,
                "weight_b": b if weights.shape[1] > 1 else 0,
                "weight_h": h if weights.shape[2] > 1 else 0,
            }
        if self.distances:
            reaches = tuple(min(probe.window or UNCLIPPED, UNCLIPPED) for probe in self.distances)
            given["reach_ptr"] = constants(reaches, ops.q.device)
        return given

    def value(self, probe: P.Probe, linear: Tensor) -> Tensor:
        """A probe's share of the kernel's linear statistics [G, B, Hq, Tq]."""
        if isinstance(probe, P.LabelMatch):
            return linear[self.labels.index(probe)]
        if isinstance(probe, P.Distance):
            return linear[len(self.labels) + self.columns + self.distances.index(probe)]
        at = self.masses.index(probe)  # pyright: ignore[reportArgumentType]
        start = len(self.labels) + sum(other.weights.shape[-1] for other in self.masses[:at])
        return linear[start : start + self.masses[at].weights.shape[-1]].movedim(0, -1).contiguous()

    def _weights(self) -> Tensor | None:
        """float32 [C, B or 1, Hq or 1, Tk]: a column's weights side by side."""
        if not self.masses:
            return None
        given = [probe.weights.to(torch.float32) for probe in self.masses]
        given = [w[:, None] if w.ndim == 3 else w[(None,) * (4 - w.ndim)] for w in given]
        batch, heads = (max(w.shape[dim] for w in given) for dim in (0, 1))
        return torch.cat([w.movedim(-1, 0).expand(-1, batch, heads, -1) for w in given]).contiguous()


def _ranks(probe: P.LabelMatch, batch: int) -> tuple[Tensor, Tensor]:
    """Labels of queries [B, Tq] and keys [B, Tk] as numbers that are equal where the labels are; NaN, which equals
    nothing, at queries that match nothing. float32, which GPUs compare faster than integers: exact up to 2^24 keys."""
    keys = probe.key_labels.long().expand(batch, -1).contiguous()
    queries = probe.query_labels.long().expand(batch, -1).contiguous()
    ordered = keys.sort(dim=-1).values
    place = torch.searchsorted(ordered, queries).clamp(max=keys.shape[-1] - 1)
    found = (ordered.gather(-1, place) == queries) & (queries != -1)
    return place.float().masked_fill(~found, torch.nan), torch.searchsorted(ordered, keys).float()
