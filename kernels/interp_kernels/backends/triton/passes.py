"""The backend itself: the forward pass, the passes that need its normalisers, and each probe's value."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from interp_kernels import probes as P
from interp_kernels.backends.finish import finished, finished_index, query_weights
from interp_kernels.backends.triton.forward import Kept, forward
from interp_kernels.backends.triton.labels import LabelOrder
from interp_kernels.backends.triton.operands import prepared
from interp_kernels.backends.triton.rows import RowStatistics
from interp_kernels.backends.triton.second import Rows, column_sums, histogram, matches, pairs, squares, top
from interp_kernels.operands import Operands


def run(ops: Operands, probes: tuple[P.Probe, ...]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Output [B, Hq, Tq, Dv] in the inputs' dtype, log-sum-exp [B, Hq, Tq], and each probe's value."""
    passes = _Passes(ops, probes)
    stats: dict[str, Tensor] = {}
    for probe in probes:
        stats |= passes.measured(probe)
    return passes.result.output, passes.result.lse, stats


class _Passes:
    """The forward pass of a call and what it leaves behind, from which probes are had."""

    def __init__(self, ops: Operands, probes: tuple[P.Probe, ...]) -> None:
        self.probes = probes
        self.call = prepared(ops)
        self.ops = self.call.ops
        self.statistics = RowStatistics(ops, probes)
        wants_index = any(isinstance(probe, P.Peak) and probe.reduce == "none" for probe in probes)
        wants_entropy = any(isinstance(probe, P.Entropy) for probe in probes)
        kept = Kept(state=bool(probes), entropy=wants_entropy, peak=wants_index)
        self.result = forward(self.call, self.statistics, kept)

    @cached_property
    def rows(self) -> Rows:
        assert self.result.shift is not None
        assert self.result.factor is not None
        return Rows(self.call, self.result.shift, self.result.factor)

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
            value = self.result.entropy
        elif isinstance(probe, P.Peak):
            # The largest weight is 2^0.
            value, index = rows.factor, self.result.peak_index
        elif isinstance(probe, P.TopK):
            value, index = top(rows, probe.k)
        elif isinstance(probe, P.OffsetMass):
            value, exists = pairs(rows, probe.offsets)
        elif isinstance(probe, P.DistanceHistogram):
            value = histogram(rows, probe.edges)
        elif isinstance(probe, P.LabelMatch):
            value = matches(rows, LabelOrder.of(probe, self.ops), self.result.splits)
        else:
            assert self.result.linear is not None
            value = self.statistics.value(probe, self.result.linear)
        assert value is not None
        stats = {name: finished(probe, value, rows.seen, exists)}
        if index is not None and probe.reduce == "none":
            stats[f"{name}_index"] = finished_index(probe, index)
        return stats

    def _received(self, probe: P.Received) -> Tensor:
        rows = self.rows
        weights = query_weights(probe, self.ops)[None]
        sums, seen = column_sums(rows, weights, weights if probe.normalize else None)
        return sums[0] if seen is None else sums[0] / seen[0]
