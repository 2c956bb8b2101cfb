"""Calls of ``attend`` changed in some heads only, and narrowed to them for a pass before the model's own.

A row's sink logit and a bias by class of key say all that edits of the map need; both are O(T) data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from interp.errors import InputError
from interp.models.call import AttentionCall
from interp_kernels import ClassBias

MAX_CLASSES = 256
"""Most classes of keys of one call: a bias takes a number for each query and class."""


def compute_dtype(x: Tensor) -> torch.dtype:
    """What ``attend`` sums in: float32, for float64 operands float64."""
    return torch.promote_types(x.dtype, torch.float32)


def is_all(call: AttentionCall, heads: Sequence[int]) -> bool:
    return len(heads) == call.q.shape[1]


def of_heads(call: AttentionCall, heads: Sequence[int]) -> AttentionCall:
    """The call with these query heads alone (ascending), and values of one column, as only its statistics are asked for."""
    chosen = list(heads)
    group = call.q.shape[1] // call.k.shape[1]
    read = [head // group for head in chosen]  # each head's KV head
    shared = sorted(set(read))
    # Keys are shared by groups of one size, else each head gets its own copy of them.
    if any(read.count(kv) != len(read) // len(shared) for kv in shared):
        shared = read
    k = call.k if shared == list(range(call.k.shape[1])) else call.k[:, shared]
    values, classes = _classes_of_heads(call.class_bias, chosen)
    return replace(
        call,
        q=call.q if is_all(call, heads) else call.q[:, chosen],
        k=k,
        v=k.new_zeros(*k.shape[:3], 1),
        sinks=None
        if call.sinks is None
        else call.sinks[..., chosen]
        if call.sinks.ndim == 1
        else call.sinks[:, chosen],
        alibi=None if call.alibi is None else call.alibi[chosen],
        bias=_bias_of_heads(call, chosen),
        class_bias=None if values is None or classes is None else ClassBias(values, classes),
    )


def row_sinks(call: AttentionCall, heads: Sequence[int]) -> Tensor:
    """The sink logit of each row of these heads, -inf where there is none: [B, n, Tq]."""
    b, hq, tq, _ = call.q.shape
    if call.sinks is None:
        return call.q.new_full((b, len(heads), tq), -torch.inf, dtype=compute_dtype(call.q))
    sinks = call.sinks.to(compute_dtype(call.q))
    sinks = sinks[None, :, None].expand(b, hq, tq) if sinks.ndim == 1 else sinks
    return sinks[:, list(heads)]


def with_row_sinks(call: AttentionCall, heads: Sequence[int], sinks: Tensor) -> AttentionCall:
    """The call with the sink logits [B, n, Tq] in the rows of these heads."""
    if is_all(call, heads):
        return replace(call, sinks=sinks)
    every = row_sinks(call, range(call.q.shape[1]))
    return replace(call, sinks=every.index_copy(1, index_of(heads, every), sinks))


def with_class_bias(call: AttentionCall, heads: Sequence[int], values: Tensor, classes: Tensor) -> AttentionCall:
    """The call with a bias by class of key added in these heads.

    values [B|1, n|1, Tq, C]; classes [B|1, n|1, Tk]. Unless all heads are meant, the values of class 0 must be 0: the other
    heads' keys are put into it. Where the call has a class bias already, a key's class becomes the pair of its classes.

    Raises:
        InputError: more than ``MAX_CLASSES`` classes.
    """
    hq = call.q.shape[1]
    if not is_all(call, heads):
        index = index_of(heads, classes)
        if classes.shape[1] == 1:
            classes = classes.expand(-1, len(heads), -1)
        unedited = classes.new_zeros(classes.shape[0], hq, classes.shape[2])
        classes = unedited.index_copy(1, index, classes)
        if values.shape[1] > 1:
            unedited = values.new_zeros(values.shape[0], hq, *values.shape[2:])
            values = unedited.index_copy(1, index, values)
    if call.class_bias is not None:
        old_values, old_classes = _four_dimensional(call.class_bias)
        count = values.shape[-1]
        classes = old_classes * count + classes
        used, classes = classes_in_use(classes, old_values.shape[-1] * count)
        _check_classes(call, len(used))
        old = old_values.to(values.dtype).index_select(-1, used // count)
        values = old + values.index_select(-1, used % count)
    _check_classes(call, values.shape[-1])
    return replace(call, class_bias=ClassBias(values, classes))


def _check_classes(call: AttentionCall, count: int) -> None:
    if count > MAX_CLASSES:
        raise InputError(
            f"layer {call.layer.key}: the edits sort its keys into {count} classes, at most {MAX_CLASSES} are "
            "possible; give whole blocks as queries= and keys= rather than pairs, or put fewer edits in force at once"
        )


def classes_in_use(classes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Those of ``count`` classes that hold a key, class 0 among them, sorted; and each key's class as a place in these."""
    # How many there are is not known while a graph is traced.
    if torch.compiler.is_compiling():
        return torch.arange(count, device=classes.device), classes
    used = torch.unique(torch.cat([classes.new_zeros(1), classes.flatten()]))
    return used, torch.searchsorted(used, classes.contiguous())


def index_of(heads: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(list(heads), device=like.device)


def is_relative(call: AttentionCall) -> bool:
    """Whether the call's bias is a relative one, [Hq, Tq + Tk - 1]."""
    shape = (call.q.shape[1], call.q.shape[2] + call.k.shape[2] - 1)
    return call.bias is not None and tuple(call.bias.shape) == shape


def _bias_of_heads(call: AttentionCall, heads: list[int]) -> Tensor | None:
    bias = call.bias
    if bias is None:
        return None
    if is_relative(call):
        return bias[heads]
    bias = bias[(None,) * (4 - bias.ndim)]
    return bias[:, heads] if bias.shape[1] > 1 else bias


def _classes_of_heads(class_bias: ClassBias | None, heads: list[int]) -> tuple[Tensor | None, Tensor | None]:
    if class_bias is None:
        return None, None
    values, classes = _four_dimensional(class_bias)
    return (values[:, heads] if values.shape[1] > 1 else values), (
        classes[:, heads] if classes.shape[1] > 1 else classes
    )


def _four_dimensional(class_bias: ClassBias) -> tuple[Tensor, Tensor]:
    values, classes = class_bias.values, class_bias.classes
    return values[(None,) * (4 - values.ndim)], classes[(None,) * (3 - classes.ndim)]
