"""Layers of a bridge that run dense, since a hook reads or edits their scores or pattern: what it costs, and what is measured.

The pattern P as the hooks leave it is turned into a call whose map it is: no queries, ln P_ij as bias, and in each row a sink
that takes what is missing to 1. So edits, probes and lazy maps work on it as on any other layer, to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from interp.errors import RunError
from interp.models.call import AttentionCall
from interp.models.layers import AttentionLayer
from interp_kernels import Mask


class DenseLayerWarning(UserWarning):
    """A layer builds its T x T map, because something hooked reads it."""


def has_hooks(point: nn.Module) -> bool:
    """Whether anything listens to a HookPoint, by TransformerLens' means or by torch's."""
    return bool(point._forward_hooks or point._forward_pre_hooks or point._backward_hooks or point._backward_pre_hooks)


def cost(layer: AttentionLayer, points: Iterable[str], shape: tuple[int, ...], dtype: torch.dtype) -> str:
    """The warning for a layer whose map of ``shape`` [B, Hq, Tq, Tk] is built."""
    cells = torch.Size(shape).numel()
    size = cells * dtype.itemsize
    written = f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.2f} MB"
    by = " x ".join(f"{n:,}" for n in shape)
    return (
        f"layer {layer.key} runs dense: a hook on {' and '.join(points)} asks for its map of {by} = {cells:,} cells, "
        f"{size:,} bytes ({written}) for each of the several copies that the bridge makes; without that hook it takes O(T) memory"
    )


def dense_mask(mask: Mask, batch: int, queries: int, keys: int, device: torch.device) -> Tensor:
    """m as a tensor [B or 1, 1, Tq, Tk], True where seen."""
    first = keys - queries if mask.offset is None else mask.offset
    i = first + torch.arange(queries, device=device)[None, :, None]
    j = torch.arange(keys, device=device)[None, None, :]
    sequences = torch.arange(batch if mask.is_per_batch else 1, device=device)[:, None, None]
    return mask.allows(i, j, sequences).expand(sequences.shape[0], queries, keys)[:, None]


def call_of_pattern(call: AttentionCall, pattern: Tensor) -> AttentionCall:
    """A call whose map is ``pattern`` [B, Hq, Tq, Tk]. Rows that see no key have none.

    Raises:
        RunError: no attention has such a map: it is negative or not finite, a row sums to more than 1, or keys have mass
            that the mask hides.
    """
    b, _, queries, keys = pattern.shape
    seen = dense_mask(call.mask, b, queries, keys, pattern.device)
    p = pattern.detach().to(torch.promote_types(pattern.dtype, torch.float32))
    some = seen.any(-1, keepdim=True)
    p = p.masked_fill(~some, 0.0)
    _check(call.layer, p, seen, pattern.dtype)
    missing = (1.0 - p.sum(-1)).masked_fill(~some[..., 0], 0.0)
    missing = torch.where(missing.abs() <= _rounding(pattern.dtype, keys), 0.0, missing)
    sinks = missing.log() if bool((missing > 0).any()) else None
    return replace(
        call,
        q=torch.zeros_like(call.q),
        scale=1.0,
        softcap=None,
        sinks=sinks,
        alibi=None,
        bias=p.log(),
        class_bias=None,
    )


def _check(layer: AttentionLayer, p: Tensor, seen: Tensor, dtype: torch.dtype) -> None:
    if not bool(torch.isfinite(p).all()) or bool((p < 0).any()):
        what = "holds negative numbers, NaN or infinity"
    elif bool(((p > 0) & ~seen).any()):
        what = "puts mass on keys that its queries do not see"
    elif bool((p.sum(-1) > 1 + _rounding(dtype, p.shape[-1])).any()):
        what = f"has rows that sum to as much as {float(p.sum(-1).max()):.6g}"
    else:
        return
    raise RunError(
        f"layer {layer.key}: the pattern as your hooks leave it {what}, so it is no attention map and cannot be measured; let "
        "rows sum to at most 1 over the keys that are seen, change hook_v or hook_z instead, or run the bridge itself"
    )


def _rounding(dtype: torch.dtype, keys: int) -> float:
    """How far the sum of a row of probabilities is from 1 by rounding alone: each is rounded once, and then added up.

    Bridges of float64 models too take the softmax in float32.
    """
    single = torch.finfo(torch.float32).eps
    return max(torch.finfo(dtype).eps, single) + keys * single
