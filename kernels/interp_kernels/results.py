"""The shape of every probe's value, stated once for whatever allocates results before they are known."""

from __future__ import annotations

from interp_kernels import probes as P


def value_shape(probe: P.Probe, batch: int, heads: int, queries: int, keys: int) -> tuple[int, ...]:
    """The shape of the probe's value, and of its index where there is one (``Probe.labels``)."""
    if isinstance(probe, P.Received):
        return batch, heads, keys
    if isinstance(probe, P.Pooled):
        block = max(1, probe.block)  # below 1 it is refused by attend, which may be asked later
        return batch, heads, -(-queries // block), -(-keys // block)
    rows = () if probe.reduce == "mean" else (queries,)
    return batch, heads, *rows, *_columns(probe)


def _columns(probe: P.Probe) -> tuple[int, ...]:
    if isinstance(probe, P.KeyMass):
        return (probe.weights.shape[-1],)
    if isinstance(probe, P.OffsetMass):
        return (len(probe.offsets),)
    if isinstance(probe, P.TopK):
        return (probe.k,)
    if isinstance(probe, P.DistanceHistogram):
        return (len(probe.edges) - 1,)
    return ()
