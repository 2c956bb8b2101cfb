"""The operands of a call, checked: what does not fit is named, with what was expected and what came."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from interp_kernels.class_bias import ClassBias
from interp_kernels.mask import Mask, checked_offset, checked_window
from interp_kernels.operands import Operands
from interp_kernels.tensors import DTYPES, check_tensor, check_transforms, describe, is_readable


def checked_operands(q, k, v, mask, scale, softcap, sinks, alibi, bias, class_bias) -> Operands:
    """The operands that ``attend`` was given.

    Raises:
        ValueError: one of them does not fit.
    """
    _check_projections(q, k, v)
    b, heads, queries, width = q.shape
    keys = k.shape[2]
    sums = torch.finfo(torch.float64 if q.dtype == torch.float64 else torch.float32)
    scale = _checked_number("scale", 1 / math.sqrt(width) if scale is None else scale, sums)
    if softcap is not None and (softcap := _checked_number("softcap", softcap, sums)) < sums.tiny:
        raise ValueError(
            f"softcap: expected a number above 0, of at least {sums.tiny:.3g} in {sums.dtype}, got {softcap}"
        )
    for name, x, shapes in (("sinks", sinks, [(heads,), (b, heads, queries)]), ("alibi", alibi, [(heads,)])):
        if x is not None:
            check_tensor(name, x, shapes, q.device)
    relative = values = classes = None
    if bias is not None:
        bias, relative = _checked_bias(bias, b, heads, queries, keys, q)
    if class_bias is not None:
        values, classes = _checked_class_bias(class_bias, b, heads, queries, keys, q)
    mask = _checked_mask(mask, b, queries, keys, q)
    return Operands(q, k, v, mask, scale, softcap, sinks, alibi, bias, relative, values, classes)


def _check_projections(q, k, v) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not is_readable(x) or x.ndim != 4:
            raise ValueError(f"{name}: expected a tensor of 4 dimensions [B, H, T, D], got {describe(x)}")
        if x.dtype not in DTYPES:
            raise ValueError(f"{name}: expected float16, bfloat16, float32 or float64, got {x.dtype}")
        if x.dtype != q.dtype or x.device != q.device:
            raise ValueError(f"{name}: expected {q.dtype} on {q.device} as q, got {x.dtype} on {x.device}")
        if 0 in x.shape:
            raise ValueError(f"{name}: no dimension may be 0, got shape {list(x.shape)}")
        check_transforms(name, x)
    if q.is_meta and not torch.compiler.is_compiling():
        raise ValueError("q: expected tensors that hold numbers, got one on the device meta, which holds none")
    b, heads, _, width = q.shape
    kv_heads, keys = k.shape[1:3]
    if k.shape[0] != b or k.shape[3] != width:
        raise ValueError(f"k: expected [{b}, Hkv, Tk, {width}] to fit q {list(q.shape)}, got {list(k.shape)}")
    if v.shape[:3] != k.shape[:3]:
        raise ValueError(f"v: expected [{b}, {kv_heads}, {keys}, Dv] to fit k {list(k.shape)}, got {list(v.shape)}")
    if heads % kv_heads:
        raise ValueError(f"q, k: the {heads} query heads must be a multiple of the {kv_heads} KV heads")


def _checked_mask(mask: Mask, b: int, queries: int, keys: int, q: Tensor) -> Mask:
    if not isinstance(mask, Mask):
        raise ValueError(f"mask: expected an interp_kernels.Mask, got {describe(mask)}")
    # The class methods have looked at these; whoever writes Mask(...) has not come by there.
    if not isinstance(mask.is_causal, bool):
        raise ValueError(f"mask.is_causal: expected True or False, got {describe(mask.is_causal)}")
    if not isinstance(mask.predicates, tuple) or not all(callable(predicate) for predicate in mask.predicates):
        raise ValueError(f"mask.predicates: expected a tuple of functions, got {describe(mask.predicates)}")
    window, offset = checked_window(mask.window, "mask.window"), checked_offset(mask.offset, "mask.offset")
    mask = replace(mask, window=window, offset=offset)
    if mask.predicates and torch.compiler.is_compiling():
        raise ValueError(
            "mask: a predicate is a Python function, which torch.compile cannot take into its graph; build the mask from "
            "causal, full, from_padding and from_documents, or leave attend out of the graph with torch.compiler.disable"
        )
    offset = keys - queries if mask.offset is None else mask.offset
    if mask.keep is not None and not (is_readable(mask.keep) and mask.keep.dtype == torch.bool):
        raise ValueError(f"mask.keep: expected a bool tensor [{b}, {keys}], got {describe(mask.keep)}")
    if mask.keep is not None and (mask.keep.shape != (b, keys) or mask.keep.device != q.device):
        raise ValueError(f"mask.keep: expected shape [{b}, {keys}] on {q.device}, got {describe(mask.keep)}")
    if mask.documents is not None:
        if not (is_readable(mask.documents) and mask.documents.dtype == torch.int64 and mask.documents.ndim == 2):
            raise ValueError(f"mask.documents: expected an int64 tensor [B, T], got {describe(mask.documents)}")
        positions = max(keys, offset + queries)
        if mask.documents.shape[0] != b or mask.documents.shape[1] < positions or offset < 0:
            raise ValueError(
                f"mask.documents: expected an id for each of the {positions} positions, [{b}, {positions}], with the first "
                f"query at 0 or later; got {list(mask.documents.shape)} and the first query at {offset}"
            )
        if mask.documents.device != q.device:
            raise ValueError(f"mask.documents: expected a tensor on {q.device}, got {mask.documents.device}")
    for name, x in (("mask.keep", mask.keep), ("mask.documents", mask.documents)):
        if x is not None:
            check_transforms(name, x)
    return mask


def _checked_bias(bias, b: int, heads: int, queries: int, keys: int, q: Tensor) -> tuple[Tensor | None, Tensor | None]:
    if not is_readable(bias) or not bias.is_floating_point() or bias.device != q.device:
        raise ValueError(f"bias: expected a floating tensor on {q.device}, got {describe(bias)}")
    check_transforms("bias", bias)
    if tuple(bias.shape) == (heads, queries + keys - 1):
        return None, bias
    full = (b, heads, queries, keys)
    padded = (1,) * (4 - bias.ndim) + tuple(bias.shape)
    if len(padded) != 4 or any(got not in (1, want) for got, want in zip(padded, full, strict=True)):
        raise ValueError(
            f"bias: expected a shape broadcastable to {list(full)} or the relative bias [{heads}, {queries + keys - 1}], "
            f"got {list(bias.shape)}"
        )
    return bias.reshape(padded), None


def _checked_class_bias(
    class_bias: ClassBias, b: int, heads: int, queries: int, keys: int, q: Tensor
) -> tuple[Tensor, Tensor]:
    """values [B|1, Hq|1, Tq, C] and classes int64 [B|1, Hq|1, Tk]."""
    if not isinstance(class_bias, ClassBias):
        raise ValueError(f"class_bias: expected an interp_kernels.ClassBias, got {describe(class_bias)}")
    values, classes = class_bias.values, class_bias.classes
    leading = [(i, j) for i in dict.fromkeys((b, 1)) for j in dict.fromkeys((heads, 1))]
    check_tensor("class_bias.values", values, [*((*x, queries, None) for x in leading), (queries, None)], q.device)
    shapes = [*((*x, keys) for x in leading), (keys,)]
    check_tensor("class_bias.classes", classes, shapes, q.device, kind="an integer")
    classes = classes.long()
    # A branch on the values would break the graph of torch.compile, whose operator asks itself.
    if not torch.compiler.is_compiling():
        check_classes(values, classes)
    return values[(None,) * (4 - values.ndim)], classes[(None,) * (3 - classes.ndim)]


def check_classes(values: Tensor, classes: Tensor) -> None:
    """Refuse classes that have no column of values [..., C]: they would be read from beyond its end."""
    least, largest = (int(x) for x in torch.aminmax(classes))
    if least < 0 or largest >= values.shape[-1]:
        raise ValueError(
            f"class_bias.classes: expected integers from 0 to {values.shape[-1] - 1}, a column of class_bias.values "
            f"{list(values.shape)} for each; got integers from {least} to {largest}"
        )


def _checked_number(name: str, value, sums: torch.finfo) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -math.inf < value < math.inf:
        raise ValueError(f"{name}: expected a finite number, got {describe(value)}")
    if abs(value) > sums.max:
        raise ValueError(
            f"{name}: expected a number that {sums.dtype} holds, at most {sums.max:.3g}, got {describe(value)}"
        )
    return float(value)
