"""What every kernel is told of a call: pointers, strides, lengths and compile-time flags, taken from the operands once."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from interp_kernels.operands import Operands

LOG2E = 1 / math.log(2)
HIDDEN = -1.7e38
"""The base-2 logit of a hidden key: finite, so that p (s - m) is 0 and not NaN, and below every score that counts."""

LEAST_SCALE = 1e-36
"""Scales nearer to 0 give equal scores; times the hidden score they would no longer hide."""


@dataclass(frozen=True)
class Call:
    """The operands as kernels want them. ``arguments`` are those that kernels share, by their names; ``nat`` is how many
    nats and ``unit`` how many
    bits a unit of score is, ``hidden`` the score of a hidden key."""

    ops: Operands
    arguments: dict[str, Any]
    nat: float
    hidden: float
    unit: float

    @property
    def width(self) -> int:
        return self.arguments["D_PAD"]

    @property
    def value_width(self) -> int:
        return self.arguments["DV_PAD"]


def prepared(ops: Operands) -> Call:
    """Contiguous last dimensions, labels of documents as int32, biases as strides. Copies only what does not fit."""
    if abs(ops.scale) < LEAST_SCALE:
        ops = replace(ops, q=ops.q * 0, scale=1.0)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (ops.q, ops.k, ops.v))
    mask, d, dv = ops.mask, q.shape[-1], v.shape[-1]
    softcap = ops.softcap is not None
    has_biases = any(x is not None for x in (ops.alibi, ops.bias, ops.relative_bias, ops.class_values))
    gain = abs(ops.scale) if ops.softcap is None else ops.softcap
    nat = 1.0 if has_biases else gain
    c = nat * LOG2E
    bias, bias_strides = _bias(ops)
    classes, values = ops.classes, ops.class_values
    if classes is not None and values is not None:
        classes = classes.to(torch.int32).contiguous()
        values = values if values.stride(-1) == 1 else values.contiguous()
    documents = None if mask.documents is None else ranked(mask.documents)
    arguments: dict[str, Any] = {
        "q_ptr": q,
        "k_ptr": k,
        "v_ptr": v,
        "keep_ptr": None if mask.keep is None else mask.keep.contiguous().view(torch.uint8),
        "document_ptr": documents,
        "document_b": 0 if documents is None else documents.shape[1],
        "sink_ptr": _flat(ops.sinks),
        "alibi_ptr": _flat(ops.alibi),
        "bias_ptr": bias,
        "class_ptr": classes,
        "class_bias_ptr": values,
        "heads": ops.heads,
        "group": ops.group,
        "queries": ops.queries,
        "keys": ops.keys,
        "offset": ops.offset,
        "window": mask.window or 0,
        "c": c,
        "gain": gain,
        "inner": abs(ops.scale) / ops.softcap if ops.softcap is not None else 1.0,
        "nat": nat,
        "hidden": HIDDEN / max(1.0, c),
        "D": d,
        "D_PAD": padded(d),
        "DV": dv,
        "DV_PAD": padded(dv),
        "CAUSAL": mask.is_causal,
        "WINDOW": mask.window is not None,
        "KEEP": mask.keep is not None,
        "DOCUMENTS": documents is not None,
        "SINKS": ops.sinks is not None,
        "ROW_SINKS": ops.sinks is not None and ops.sinks.ndim == 3,
        "ALIBI": ops.alibi is not None,
        "BIAS": bias is not None,
        "CLASSES": values is not None,
        "SOFTCAP": softcap,
        "NEGATIVE": ops.scale < 0,
        "PRECISION": "ieee",
    }
    for name, x in (("q", q), ("k", k), ("v", v)):
        arguments |= {f"{name}_b": x.stride(0), f"{name}_h": x.stride(1), f"{name}_t": x.stride(2)}
    for name, stride in zip("bhij", bias_strides, strict=True):
        arguments[f"bias_{name}"] = stride
    for name, stride in zip("bh", _strides(classes, 2), strict=True):
        arguments[f"class_{name}"] = stride
    for name, stride in zip("bhi", _strides(values, 3), strict=True):
        arguments[f"class_bias_{name}"] = stride
    return Call(replace(ops, q=q, k=k, v=v), arguments, nat, arguments["hidden"], c)


def padded(width: int) -> int:
    """The width in registers: a power of two of at least 16, which is the least that a matrix product takes."""
    return max(16, 1 << (width - 1).bit_length())


@lru_cache(maxsize=256)
def constants(values: tuple[int, ...], device: torch.device) -> Tensor:
    """int32 numbers on the device. Kept from call to call, since the way there makes the host wait."""
    return torch.tensor(values, dtype=torch.int32, device=device)


def ranked(values: Tensor) -> Tensor:
    """int32 numbers that are equal where the integers are equal."""
    ordered = values.flatten().sort().values
    return torch.searchsorted(ordered, values.contiguous()).to(torch.int32)


def _bias(ops: Operands) -> tuple[Tensor | None, tuple[int, int, int, int]]:
    """A tensor that starts at the entry of query 0 and key 0, and its strides by sequence, head, query and key."""
    if ops.relative_bias is not None:
        # Entry (j - query index) + Tq - 1: one step along a key, one back along a query.
        relative = ops.relative_bias if ops.relative_bias.stride(-1) == 1 else ops.relative_bias.contiguous()
        return relative[:, ops.queries - 1 :], (0, relative.stride(0), -1, 1)
    if ops.bias is None:
        return None, (0, 0, 0, 0)
    b, h, i, j = _strides(ops.bias, 4)
    return ops.bias, (b, h, i, j)


def _strides(x: Tensor | None, count: int) -> list[int]:
    """Of the first dimensions; 0 along those that are broadcast, and where there is no tensor."""
    if x is None:
        return [0] * count
    return [0 if size == 1 else step for size, step in zip(x.shape[:count], x.stride(), strict=False)]


def _flat(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()
