"""Heads that attend uniformly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from interp.edits.edit import Edit, heads_or_layers
from interp.edits.narrow import (
    classes_in_use,
    compute_dtype,
    index_of,
    is_all,
    is_relative,
    row_sinks,
    with_row_sinks,
)
from interp.models.call import AttentionCall
from interp.models.heads import HeadSpec
from interp.models.layers import LayerKey
from interp_kernels import ClassBias
from interp_kernels.tiles import is_hidden


def uniform(*heads: HeadSpec, layers: Iterable[LayerKey] | None = None) -> Edit:
    """Make heads attend uniformly: P'_ij = 1 / n_i over the n_i keys that query i sees, padding and cut keys not among them.

    What a head knows of contents and positions (rotary positions, ALiBi, T5's bias) is gone, and so is its sink logit: its
    rows sum to 1. A row that sees no key has output 0. AttentionInfluence (arXiv 2505.07293) masks heads in this way.

    Cost: none beyond the pass itself; T x T memory for a model's own bias that has that shape already (T5).

    Args:
        heads: "L5H1", (5, 1), "5.1", ...; or "all".
        layers: in place of heads, all heads of these layers.

    Raises:
        InputError: no head is named.
    """
    return Uniform(heads=heads_or_layers("uniform", heads, layers), layers=layers)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Uniform(Edit):
    """See ``uniform``: scores are 0 but where a bias hides the key; the mask is as it was."""

    name = "uniform"

    def edited_call(self, call: AttentionCall, heads: tuple[int, ...]) -> AttentionCall:
        index = index_of(heads, call.q)
        edited = replace(
            call,
            q=call.q.index_fill(1, index, 0),
            alibi=None if call.alibi is None else call.alibi.index_fill(0, index, 0),
            bias=_level_bias(call, heads),
            class_bias=None if call.class_bias is None else _level_classes(call.class_bias, call, heads),
        )
        if call.sinks is None:
            return edited
        if call.sinks.ndim == 1:
            return replace(edited, sinks=call.sinks.index_fill(0, index, -torch.inf))
        return with_row_sinks(edited, heads, torch.full_like(row_sinks(call, heads), -torch.inf))


def _level(bias: Tensor) -> Tensor:
    """0 where the bias lets a key be seen, -inf where it hides it."""
    return torch.zeros_like(bias).masked_fill(is_hidden(bias), -torch.inf)


def _level_bias(call: AttentionCall, heads: tuple[int, ...]) -> Tensor | None:
    bias = call.bias
    if bias is None:
        return None
    if is_relative(call):
        return bias.index_copy(0, index_of(heads, bias), _level(bias[list(heads)]))
    bias = bias[(None,) * (4 - bias.ndim)]
    if bias.shape[1] == 1:
        return (
            _level(bias) if is_all(call, heads) else torch.where(_is_one_of(heads, call)[:, None], _level(bias), bias)
        )
    return bias.index_copy(1, index_of(heads, bias), _level(bias[:, list(heads)]))


def _level_classes(class_bias: ClassBias, call: AttentionCall, heads: tuple[int, ...]) -> ClassBias:
    """The keys of ``heads`` move to a second set of classes, whose values are levelled."""
    values, classes = class_bias.values, class_bias.classes
    values = values.to(compute_dtype(call.q))
    if is_all(call, heads):
        return ClassBias(_level(values), classes)
    classes = classes[(None,) * (3 - classes.ndim)]
    classes = torch.where(_is_one_of(heads, call), classes + values.shape[-1], classes)
    both = torch.cat([values, _level(values)], dim=-1)
    used, classes = classes_in_use(classes, both.shape[-1])
    return ClassBias(both.index_select(-1, used), classes)


def _is_one_of(heads: tuple[int, ...], call: AttentionCall) -> Tensor:
    """Which query heads are meant, bool [Hq, 1].

    For ``torch.where`` on what all heads share: compiled, an ``index_copy`` into an expanded tensor writes into all of them.
    """
    each = torch.arange(call.q.shape[1], device=call.q.device)
    return torch.isin(each, index_of(heads, call.q))[:, None]
