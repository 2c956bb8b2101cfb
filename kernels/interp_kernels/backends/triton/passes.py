"""The backend itself: the forward pass, the passes that need its normalisers, and each probe's value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp_kernels import probes as P
from interp_kernels.backends.finish import finished, finished_index
from interp_kernels.backends.triton.forward import forward_kernel
from interp_kernels.backends.triton.launch import cdiv, launch
from interp_kernels.backends.triton.operands import Call, prepared
from interp_kernels.backends.triton.rows import RowStatistics
from interp_kernels.operands import Operands


def run(ops: Operands, probes: tuple[P.Probe, ...]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Output [B, Hq, Tq, Dv] in the inputs' dtype, log-sum-exp [B, Hq, Tq], and each probe's value."""
    call = prepared(ops)
    statistics = RowStatistics(ops, probes)
    ends = forward(call, statistics, probes)
    return ends["out_ptr"], ends["lse_ptr"], {}


def forward(call: Call, statistics: RowStatistics, probes: tuple[P.Probe, ...]) -> dict[str, Any]:
    ops = call.ops
    shape = (ops.batch, ops.heads, ops.queries)

    def empty(*extra: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(*extra, *shape, dtype=dtype, device=ops.q.device)

    entropy = any(isinstance(probe, P.Entropy) for probe in probes)
    peak = any(isinstance(probe, P.Peak) for probe in probes)
    results: dict[str, Any] = {
        "out_ptr": torch.empty(*shape, ops.v.shape[-1], dtype=ops.v.dtype, device=ops.q.device),
        "lse_ptr": empty(),
        "shift_ptr": empty() if probes else None,
        "factor_ptr": empty() if probes else None,
        "tile_ptr": empty(dtype=torch.int32) if peak else None,
        "entropy_ptr": empty() if entropy else None,
        "linear_ptr": empty(statistics.count) if statistics.count else None,
    }
    flags = {"STATE": bool(probes), "ENTROPY": entropy, "PEAK": peak, "PACKED": False, "SPLIT": False, "splits": 1}
    heads = ops.batch * ops.heads
    launch(
        forward_kernel,
        "forward",
        call,
        lambda config: (cdiv(ops.queries, config.block_m) * heads, 1),
        results | flags | statistics.arguments(),
    )
    return results
