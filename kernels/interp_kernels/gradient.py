"""Gradients of attention: that of the map, tile by tile."""

from __future__ import annotations

import torch
from torch import Tensor

from interp_kernels.operands import Operands
from interp_kernels.tiles import Index


def map_gradient(
    ops: Operands, output_gradient: Tensor, batch: slice, kv: slice, rows: Index, cols: Index, out: Tensor | None = None
) -> Tensor:
    """dP_ij = dO_i . v_j of a tile, [b, Hq of the KV heads, rows, cols], in the compute dtype.

    output_gradient: dO [B, Hq, Tq, Dv]. ``out``: a flat buffer with room for the tile, else one is allocated.
    """
    dtype = ops.compute_dtype
    gradient = output_gradient[batch, kv.start * ops.group : kv.stop * ops.group][:, :, rows].to(dtype)
    v = ops.v[batch, kv][:, :, cols].to(dtype)
    b, heads, r, width = gradient.shape
    pairs, c = v.shape[0] * v.shape[1], v.shape[2]
    gradient = gradient.reshape(pairs, ops.group * r, width)
    tile = v.new_empty(gradient.shape[:2].numel() * c) if out is None else out[: gradient.shape[:2].numel() * c]
    tile = tile.view(pairs, ops.group * r, c)
    torch.bmm(gradient, v.reshape(pairs, c, width).transpose(1, 2), out=tile)
    return tile.view(b, heads, r, c)
