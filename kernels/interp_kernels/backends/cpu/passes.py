"""Attention with probes on CPUs: the passes over rows and, where a probe asks for it, over keys, shared out to workers."""

from __future__ import annotations

import torch
from torch import Tensor

from interp_kernels import probes as P
from interp_kernels.backends.cpu.columns import PooledColumns, ReceivedColumns, column_pass
from interp_kernels.backends.cpu.program import Program, program
from interp_kernels.backends.cpu.rows import TILE_CELLS, Rows, row_pass
from interp_kernels.backends.finish import Closing, finished, finished_index, query_weights
from interp_kernels.operands import Operands
from interp_kernels.tiles import is_hidden


def run(
    ops: Operands, probes: tuple[P.Probe, ...], tile_cells: int = TILE_CELLS
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Output [B, Hq, Tq, Dv] in the inputs' dtype, log-sum-exp [B, Hq, Tq], and each probe's value.

    For tensors on the CPU whose sums are in float32. tile_cells: cells of a worker's tile.
    """
    told = program(ops, probes)
    rows = row_pass(ops, told, tile_cells)
    inverse, log_total, lse = rows.ends
    closing = Closing(inverse, log_total, seen=~is_hidden(rows.sums[0]))
    received = {
        p.label: ReceivedColumns(ops, query_weights(p, ops), p.normalize) for p in probes if isinstance(p, P.Received)
    }
    pooled = {p.label: PooledColumns.of(p, ops) for p in probes if isinstance(p, P.Pooled)}
    if received or pooled:
        sums, squares = list(received.values()), list(pooled.values())
        column_pass(ops, rows.sums[0], closing.inverse, sums, squares, tile_cells)
    columns = {label: x.result() for label, x in (received | pooled).items()}
    stats: dict[str, Tensor] = {}
    for probe in probes:
        if probe.label in columns:
            stats[probe.label] = columns[probe.label]
        else:
            stats |= _row_statistic(probe, told, rows, closing)
    # A copy: the map keeps it, and would keep the row's other ends too.
    return rows.output, lse.clone(), stats


def _row_statistic(probe: P.Probe, told: Program, rows: Rows, closing: Closing) -> dict[str, Tensor]:
    exists, index = None, None
    if isinstance(probe, P.Entropy):
        # H = ln l - u / l over the keys: two terms of one sign.
        value = closing.inverse * (rows.sums[1] * closing.log_total - rows.sums[2])
    elif isinstance(probe, P.Peak):
        value, index = closing.inverse.clone(), rows.peak
    elif isinstance(probe, P.TopK):
        value, index = _largest(probe.k, rows, closing)
    else:
        at, width = told.place[probe.label]
        value = rows.sums[at : at + width] * closing.inverse
        value = value[0] if isinstance(probe, P.LabelMatch | P.Distance) else value.movedim(0, -1).contiguous()
        if isinstance(probe, P.OffsetMass):
            exists = rows.exists[_first_offset(probe, told, at) :][:width].movedim(0, -1)
    stats = {probe.label: finished(probe, value, closing.seen, exists)}
    if index is not None and probe.reduce == "none":
        stats[f"{probe.label}_index"] = finished_index(probe, index)
    return stats


def _first_offset(probe: P.OffsetMass, told: Program, at: int) -> int:
    """The row of ``exists`` that belongs to the row ``at`` of the sums: offsets stand last."""
    return at - (told.rows - len(told.offsets))


def _largest(k: int, rows: Rows, closing: Closing) -> tuple[Tensor, Tensor]:
    """P = exp(s - m) / l of the k best scores and their keys, [B, Hq, Tq, k].

    Beyond the visible keys the score is still that of a hidden one, so that P is 0, and the key -1.
    """
    best, keys = rows.top_scores[:k].movedim(0, -1), rows.top_keys[:k].movedim(0, -1)
    value = torch.exp(best - rows.sums[0][..., None]) * closing.inverse[..., None]
    return value, keys.contiguous()
