"""The order of queries and keys by their labels, in which the keys that a query is to count stand side by side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from interp_kernels import probes as P
from interp_kernels.once import Once
from interp_kernels.operands import Operands

_orders = Once(keeps_tensors=True)


@dataclass(frozen=True)
class LabelOrder:
    """int32 throughout. query [B, Tq]: the queries in the order of the keys that they match; start, end [B, Tq]: which of the
    ordered keys those are, none where start >= end; key [B, Tk]: the keys by label, those of one label by position.
    """

    query: Tensor
    start: Tensor
    end: Tensor
    key: Tensor

    @classmethod
    def of(cls, probe: P.LabelMatch, ops: Operands) -> LabelOrder:
        """Made once for all the calls of a probe that agree in what it depends on."""
        return _orders.of(probe, (ops.batch, ops.mask.is_causal, ops.offset), lambda: _ordered(probe, ops))


def _ordered(probe: P.LabelMatch, ops: Operands) -> LabelOrder:
    keys = ops.keys
    query_labels, key_labels = (x.long().expand(ops.batch, -1) for x in (probe.query_labels, probe.key_labels))
    ordered, key = key_labels.contiguous().sort(dim=-1, stable=True)
    start = torch.searchsorted(ordered, query_labels.contiguous())
    # A key's place is that of its label, then its position: so the keys of a label before some position are found, too.
    place = torch.searchsorted(ordered, ordered) * (keys + 1) + key
    beyond = start.new_full((ops.queries,), keys)
    if probe.strict or ops.mask.is_causal:
        # The first key that does not count: the query's own, or the one after it.
        beyond = (torch.arange(ops.queries, device=start.device) + ops.offset + (not probe.strict)).clamp(0, keys)
    end = torch.searchsorted(place, start * (keys + 1) + beyond)
    found = ordered.gather(-1, start.clamp(max=keys - 1)) == query_labels
    end = torch.where(found & (query_labels != -1), end, start)
    # Queries that match nothing come last, so that they fill blocks of their own.
    query = torch.where(start < end, start, keys).argsort(dim=-1, stable=True)
    return LabelOrder(*(x.to(torch.int32) for x in (query, start.gather(-1, query), end.gather(-1, query), key)))
