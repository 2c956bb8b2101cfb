"""The checked arguments of one attention call, and the shapes that follow from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from interp_kernels.mask import Mask


@dataclass(frozen=True, eq=False)
class Operands:
    """What defines an attention map, already checked by ``interp_kernels.arguments``. O(T) memory.

    q [B, Hq, Tq, D], k [B, Hkv, Tk, D], v [B, Hkv, Tk, Dv]; the score of query i and key j is

        s_ij = softcap(scale q_i . k_j) - slope_h |i - j| + bias_ij + values_i,class(j),     softcap(x) = c tanh(x / c)

    and P_ij = exp(s_ij) / (sum_j exp(s_ij) + exp(sink_h)) over the visible keys, or with sink_hi.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Mask
    scale: float
    softcap: float | None = None
    sinks: Tensor | None = None  # [Hq], or [B, Hq, Tq]
    alibi: Tensor | None = None  # [Hq]
    bias: Tensor | None = None  # 4-D, broadcastable to [B, Hq, Tq, Tk]
    relative_bias: Tensor | None = None  # [Hq, Tq + Tk - 1], entry (j - query index) + Tq - 1
    class_values: Tensor | None = None  # [B|1, Hq|1, Tq, C]
    classes: Tensor | None = None  # int64 [B|1, Hq|1, Tk], with class_values

    @property
    def batch(self) -> int:
        return self.q.shape[0]

    @property
    def heads(self) -> int:
        return self.q.shape[1]

    @property
    def kv_heads(self) -> int:
        return self.k.shape[1]

    @property
    def group(self) -> int:
        """Query heads that read one KV head."""
        return self.heads // self.kv_heads

    @property
    def queries(self) -> int:
        return self.q.shape[2]

    @property
    def keys(self) -> int:
        return self.k.shape[2]

    @property
    def offset(self) -> int:
        """Position of the first query."""
        return self.keys - self.queries if self.mask.offset is None else self.mask.offset

    @property
    def compute_dtype(self) -> torch.dtype:
        """float64 for float64 inputs, float32 for all others."""
        return torch.float64 if self.q.dtype == torch.float64 else torch.float32

    def detached(self) -> Operands:
        """The same operands without the graphs that their tensors came from."""
        names = ("q", "k", "v", "sinks", "alibi", "bias", "relative_bias", "class_values")
        given = {name: getattr(self, name) for name in names}
        recorded = {name: x.detach() for name, x in given.items() if x is not None and x.requires_grad}
        return replace(self, **recorded) if recorded else self

    def some_rows(self, rows: slice) -> Operands:
        """The operands of consecutive queries, as views. rows: start and stop within [0, Tq]."""
        bias, relative, sinks = self.bias, self.relative_bias, self.sinks
        if relative is not None:
            # Entry (key - query) + Tq - 1; the queries' own part of it ends where the last of them meets key Tk - 1.
            first = self.queries - rows.stop
            relative = relative[:, first : first + rows.stop - rows.start + self.keys - 1]
        return replace(
            self,
            q=self.q[:, :, rows],
            mask=self.mask.with_offset(self.offset + rows.start),
            sinks=sinks[:, :, rows] if sinks is not None and sinks.ndim == 3 else sinks,
            bias=bias[:, :, rows] if bias is not None and bias.shape[2] > 1 else bias,
            relative_bias=relative,
            class_values=None if self.class_values is None else self.class_values[:, :, rows],
        )

    def one_head(self, batch: int, head: int) -> Operands:
        """The operands of one head of one sequence, as views: B = Hq = Hkv = 1."""
        b, h, g = slice(batch, batch + 1), slice(head, head + 1), slice(head // self.group, head // self.group + 1)
        mask = self.mask
        if mask.predicates:
            mask = replace(mask, predicates=tuple(_pinned(predicate, batch) for predicate in mask.predicates))
        mask = replace(
            mask,
            keep=None if mask.keep is None else mask.keep[b],
            documents=None if mask.documents is None else mask.documents[b],
        )

        def of_head(x: Tensor | None) -> Tensor | None:
            """x [B|1, Hq|1, ...] -> [1, 1, ...]."""
            if x is None:
                return None
            return x[b if x.shape[0] > 1 else slice(None), h if x.shape[1] > 1 else slice(None)]

        sinks = self.sinks
        if sinks is not None:
            sinks = sinks[h] if sinks.ndim == 1 else sinks[b, h]
        return replace(
            self,
            q=self.q[b, h],
            k=self.k[b, g],
            v=self.v[b, g],
            mask=mask,
            sinks=sinks,
            alibi=None if self.alibi is None else self.alibi[h],
            bias=of_head(self.bias),
            relative_bias=None if self.relative_bias is None else self.relative_bias[h],
            class_values=of_head(self.class_values),
            classes=of_head(self.classes),
        )


def _pinned(predicate, batch: int):
    return lambda index, i, j: predicate(index + batch, i, j)
