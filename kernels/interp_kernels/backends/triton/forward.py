"""The forward pass from the host's side: which rows go together, over how many programs the keys are split, what is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_kernels.backends.triton.device.forward import forward_kernel
from interp_kernels.backends.triton.device.merge import merge_kernel
from interp_kernels.backends.triton.device.peak import peak_kernel
from interp_kernels.backends.triton.launch import cdiv, launch
from interp_kernels.backends.triton.operands import Call
from interp_kernels.backends.triton.rows import RowStatistics
from interp_kernels.backends.triton.tuning import forced_splits, multiprocessors

FEW = 16
"""Rows of a KV head that fill the least tile. With as many or fewer, the keys are what is worth sharing out."""

LEAST_SHARE = 512
"""Keys that a program should have for itself, at least."""


@dataclass(frozen=True)
class Kept:
    """Which row statistics a pass keeps beside output and log-sum-exp."""

    state: bool = False
    entropy: bool = False
    peak: bool = False


@dataclass(frozen=True)
class Forwarded:
    """What a pass leaves, [B, Hq, Tq, ...]; None for what is not kept. linear: [G, B, Hq, Tq]. splits: over how many
    programs it shared a row's keys out."""

    output: Tensor
    lse: Tensor
    shift: Tensor | None
    factor: Tensor | None
    entropy: Tensor | None
    peak_index: Tensor | None
    linear: Tensor | None
    splits: int


def forward(call: Call, statistics: RowStatistics, kept: Kept) -> Forwarded:
    """Run the pass, and the small one that turns the tiles of maxima into keys."""
    ops = call.ops
    few = ops.queries <= FEW
    classes_per_head = ops.classes is not None and ops.classes.shape[1] > 1
    packed = few and ops.group > 1 and not statistics.is_per_head and not classes_per_head
    rows = ops.queries * (ops.group if packed else 1)
    units = ops.batch * (ops.kv_heads if packed else ops.heads)
    splits = _splits(ops.keys, units, ops.q.device) if few else 1
    results = _allocated(call, statistics.count, kept, ops.v.dtype)
    flags = {
        "STATE": kept.state or splits > 1,
        "ENTROPY": kept.entropy,
        "PEAK": kept.peak,
        "PACKED": packed,
        "SPLIT": splits > 1,
        "splits": splits,
    }
    written = results
    if splits > 1:
        written = _allocated(call, statistics.count, Kept(True, kept.entropy, kept.peak), torch.float32, splits)
    config = launch(
        forward_kernel,
        "decode" if rows <= FEW else "forward",
        call,
        lambda c: (cdiv(rows, c.block_m) * units, splits),
        written | flags | statistics.arguments(),
    )
    if splits > 1:
        all_rows = ops.batch * ops.heads * ops.queries
        given = results | {f"part_{name}": x for name, x in written.items()} | flags
        given |= {"rows": all_rows, "STATE": kept.state, "LINEAR": statistics.count}
        launch(merge_kernel, "rows", call, lambda c: (cdiv(all_rows, c.block_m),), given)
    index = None
    if kept.peak:
        index = torch.empty(results["lse_ptr"].shape, dtype=torch.int64, device=ops.q.device)
        given = {"tile_ptr": results["tile_ptr"], "index_ptr": index, "TILE": config.block_n}
        launch(peak_kernel, "rows", call, lambda c: (cdiv(ops.queries, c.block_m) * ops.batch * ops.heads,), given)
    return Forwarded(
        output=results["out_ptr"],
        lse=results["lse_ptr"],
        shift=results["shift_ptr"],
        factor=results["factor_ptr"],
        entropy=results["entropy_ptr"],
        peak_index=index,
        linear=results["linear_ptr"],
        splits=splits,
    )


def _splits(keys: int, units: int, device: torch.device) -> int:
    """Ranges of keys, so that every multiprocessor has a program and no program too little to do."""
    forced = forced_splits()
    if forced is not None:
        return forced
    return max(1, min(cdiv(multiprocessors(device), units), cdiv(keys, LEAST_SHARE)))


def _allocated(call: Call, linear: int, kept: Kept, dtype: torch.dtype, splits: int = 1) -> dict[str, Any]:
    """What the forward kernel writes, by argument; with ``splits`` the parts of its results, [splits, B, Hq, Tq, ...]."""
    ops = call.ops
    shape = ((splits,) if splits > 1 else ()) + (ops.batch, ops.heads, ops.queries)

    def empty(*before: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(*before, *shape, dtype=dtype, device=ops.q.device)

    return {
        "out_ptr": torch.empty(*shape, ops.v.shape[-1], dtype=dtype, device=ops.q.device),
        "lse_ptr": empty() if splits == 1 else None,
        "shift_ptr": empty() if kept.state else None,
        "factor_ptr": empty() if kept.state else None,
        "tile_ptr": empty(dtype=torch.int32) if kept.peak else None,
        "entropy_ptr": empty() if kept.entropy else None,
        "linear_ptr": empty(linear) if linear else None,
    }
