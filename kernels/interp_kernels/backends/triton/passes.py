"""The backend itself: the forward pass, the passes that need its normalisers, and each probe's value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp_kernels import probes as P
from interp_kernels.backends.finish import finished, finished_index
from interp_kernels.backends.triton.device.forward import forward_kernel
from interp_kernels.backends.triton.device.peak import peak_kernel
from interp_kernels.backends.triton.launch import cdiv, launch
from interp_kernels.backends.triton.operands import prepared
from interp_kernels.backends.triton.rows import RowStatistics
from interp_kernels.backends.triton.second import Rows, column_sums, histogram, pairs, squares, top
from interp_kernels.operands import Operands


def run(ops: Operands, probes: tuple[P.Probe, ...]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Output [B, Hq, Tq, Dv] in the inputs' dtype, log-sum-exp [B, Hq, Tq], and each probe's value."""
    passes = _Passes(ops, probes)
    stats: dict[str, Tensor] = {}
    for probe in probes:
        stats |= passes.measured(probe)
    return passes.output, passes.lse, stats


class _Passes:
    """The forward pass of a call and what it leaves behind, from which probes are had."""

    def __init__(self, ops: Operands, probes: tuple[P.Probe, ...]) -> None:
        self.probes = probes
        self.call = prepared(ops)
        self.ops = self.call.ops
        self.statistics = RowStatistics(ops, probes)
        shape = (ops.batch, ops.heads, ops.queries)

        def empty(*extra: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(*extra, *shape, dtype=dtype, device=ops.q.device)

        wants_entropy, wants_peak = self._wants(P.Entropy), self._wants(P.Peak) and self._wants_index(P.Peak)
        self.output = torch.empty(*shape, ops.v.shape[-1], dtype=ops.v.dtype, device=ops.q.device)
        self.lse = empty()
        self.shift, self.factor = (empty(), empty()) if probes else (None, None)
        self.entropy = empty() if wants_entropy else None
        self.linear = empty(self.statistics.count) if self.statistics.count else None
        tile = empty(dtype=torch.int32) if wants_peak else None
        arguments: dict[str, Any] = {
            "out_ptr": self.output,
            "lse_ptr": self.lse,
            "shift_ptr": self.shift,
            "factor_ptr": self.factor,
            "tile_ptr": tile,
            "entropy_ptr": self.entropy,
            "linear_ptr": self.linear,
            "STATE": bool(probes),
            "ENTROPY": wants_entropy,
            "PEAK": wants_peak,
            "PACKED": False,
            "SPLIT": False,
            "splits": 1,
        }
        heads = ops.batch * ops.heads
        config = launch(
            forward_kernel,
            "forward",
            self.call,
            lambda c: (cdiv(ops.queries, c.block_m) * heads, 1),
            arguments | self.statistics.arguments(),
        )
        self.peak_index = None
        if tile is not None:
            self.peak_index = empty(dtype=torch.int64)
            given = {"tile_ptr": tile, "index_ptr": self.peak_index, "TILE": config.block_n}
            launch(peak_kernel, "rows", self.call, lambda c: (cdiv(ops.queries, c.block_m) * heads,), given)

    @property
    def rows(self) -> Rows:
        assert self.shift is not None
        assert self.factor is not None
        return Rows(self.call, self.shift, self.factor, is_rounded=False)

    def measured(self, probe: P.Probe) -> dict[str, Tensor]:
        """What ``Attended.stats`` holds of a probe."""
        rows, name = self.rows, probe.label
        if isinstance(probe, P.Received):
            return {name: self._received(probe)}
        if isinstance(probe, P.Pooled):
            chosen = None if probe.queries is None else probe.queries.expand(self.ops.batch, -1)
            return {name: squares(rows, probe.block, probe.op, chosen)}
        exists = index = None
        if isinstance(probe, P.Entropy):
            value = self.entropy
        elif isinstance(probe, P.Peak):
            # The largest weight is 2^0.
            value, index = rows.factor, self.peak_index
        elif isinstance(probe, P.TopK):
            value, index = top(rows, probe.k)
        elif isinstance(probe, P.OffsetMass):
            value, exists = pairs(rows, probe.offsets)
        elif isinstance(probe, P.DistanceHistogram):
            value = histogram(rows, probe.edges)
        else:
            assert self.linear is not None
            value = self.statistics.value(probe, self.linear)
        assert value is not None
        stats = {name: finished(probe, value, rows.seen, exists)}
        if index is not None and probe.reduce == "none":
            stats[f"{name}_index"] = finished_index(probe, index)
        return stats

    def _received(self, probe: P.Received) -> Tensor:
        rows = self.rows
        weights = torch.ones(1, 1, self.ops.queries, device=rows.shift.device)
        if probe.weights is not None:
            given = probe.weights.to(torch.float32)
            weights = given[:, None] if given.ndim == 2 else given.expand(1, 1, -1) if given.ndim == 1 else given
        if probe.queries is not None:
            weights = weights * probe.queries.expand(self.ops.batch, -1)[:, None]
        weights = weights.expand(1, *rows.shift.shape)
        sums, seen = column_sums(rows, weights, weights if probe.normalize else None)
        return sums[0] if seen is None else sums[0] / seen[0]

    def _wants(self, kind: type[P.Probe]) -> bool:
        return any(isinstance(probe, kind) for probe in self.probes)

    def _wants_index(self, kind: type[P.Probe]) -> bool:
        return any(isinstance(probe, kind) and probe.reduce == "none" for probe in self.probes)
