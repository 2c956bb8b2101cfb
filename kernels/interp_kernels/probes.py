"""What can be measured in the fused pass: one frozen dataclass a probe, its definition in the docstring.

P[b, h, i, j] is the attention map; i is a position (query index plus the mask's offset), j a key index, m_ij is 1 where
the mask lets i see j. A row that sees no key has P = 0: its masses and entropy are 0, its peak is 0 with index -1.
With sink logits the keys' probabilities sum to less than one; statistics are over the keys. Statistics carry no gradient.

Values are float32 (float64 where the inputs are float64), indices int64.

Every probe takes, by keyword,

    name      key of the value in ``Attended.stats`` (default: the class name in snake case)
    queries   which queries count: bool [Tq] or [B, Tq], True for those that do; the others' values are NaN, their
              indices -1
    reduce    "none", or "mean": the average over the queries that count, see a key and, for pairs, whose pair is
              visible. It drops the query axis; NaN where no query counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Probe:
    """A declared reduction of the attention map. Use a subclass."""

    gives_index: ClassVar[bool] = False
    """Whether keys come with the values: int64 under ``name`` + "_index", unless the values are averaged."""

    name: str | None = None
    queries: Tensor | None = None
    reduce: Literal["none", "mean"] = "none"

    @property
    def label(self) -> str:
        """The key of this probe's value: ``name`` if given, else the class name in snake case."""
        return self.name or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()

    @property
    def labels(self) -> tuple[str, ...]:
        """Every key that this probe writes in ``Attended.stats``: the value's, and the index's where there is one."""
        has_index = self.gives_index and self.reduce == "none"
        return (self.label, f"{self.label}_index") if has_index else (self.label,)


@dataclass(frozen=True, eq=False)
class Entropy(Probe):
    """-sum_j P_ij ln P_ij, in nats, between 0 and ln(visible keys). [B, Hq, Tq]."""


@dataclass(frozen=True, eq=False)
class Peak(Probe):
    """max_j P_ij under ``name`` and the lowest j that reaches it under ``name_index``. Each [B, Hq, Tq].

    With reduce="mean" only the value is averaged; there is no index.
    """

    gives_index: ClassVar[bool] = True


@dataclass(frozen=True, eq=False)
class TopK(Probe):
    """The k largest P_ij of a row under ``name``, their keys under ``name_index``. Each [B, Hq, Tq, k], largest first.

    Keys are taken in the order of their scores, ties to the lower key, so that a visible key is named even where its P
    vanishes in rounding. Beyond the visible keys the value is 0 and the index -1; k may exceed Tk. With reduce="mean" each
    place is averaged over the queries that see a key, [B, Hq, k], those zeros included; there is no index.
    """

    gives_index: ClassVar[bool] = True

    k: int


@dataclass(frozen=True, eq=False)
class KeyMass(Probe):
    """sum_j P_ij w_jc for C weights on the keys. [B, Hq, Tq, C].

    weights: [Tk, C], [B, Tk, C] or [B, Hq, Tk, C]. With 0/1 weights it is the mass on C sets of keys; with value norms
    or positions it is their expectation under the attention.
    """

    weights: Tensor


@dataclass(frozen=True, eq=False)
class LabelMatch(Probe):
    """sum_j P_ij [a_i = b_j], with ``strict`` only over j < i. Label -1 matches nothing. [B, Hq, Tq], in [0, 1].

    query_labels a: integers [Tq] or [B, Tq]; key_labels b: integers [Tk] or [B, Tk].
    Duplicate tokens: a = b = token, strict. Induction: a = token, b_j = token_(j-1). Copying: a_i = token_(i+1), b = token.
    """

    query_labels: Tensor
    key_labels: Tensor
    strict: bool = False


@dataclass(frozen=True, eq=False)
class OffsetMass(Probe):
    """P_i,(i-d) for each d of ``offsets``; 0 where that key does not exist or is not visible. [B, Hq, Tq, C].

    offsets: non-empty tuple of integers; d = 1 is the previous token, d = 0 the current one, d < 0 lies ahead.
    With reduce="mean" the average runs over the queries for which the pair exists (the first query has no previous token).
    """

    offsets: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Distance(Probe):
    """sum_j P_ij min(|i - j|, window), in tokens. [B, Hq, Tq]. window=None does not clip."""

    window: int | None = None


@dataclass(frozen=True, eq=False)
class DistanceHistogram(Probe):
    """sum_j P_ij [e_c <= |i - j| < e_(c+1)], the mass by distance. [B, Hq, Tq, len(edges) - 1], in [0, 1].

    edges e: at least two strictly increasing integers from 0 on; the last may be ``math.inf``. Every bin is closed on its
    left and open on its right, the last one too. Distances outside of all bins count nowhere.
    """

    edges: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Received(Probe):
    """c_j = sum_i w_i P_ij over the queries that count. [B, Hq, Tk].

    weights w: None (ones), [Tq], [B, Tq] or [B, Hq, Tq]. With ``normalize`` c_j is divided by sum_i w_i m_ij: on a causal
    map with unit weights that is alpha_j = sum_i P_ij / (T - j) of Gu et al., "When Attention Sink Emerges in Language
    Models" (arXiv 2410.10781); NaN for a key that nobody sees. There is no query axis to reduce.
    """

    weights: Tensor | None = None
    normalize: bool = False


@dataclass(frozen=True, eq=False)
class Pooled(Probe):
    """Mean over the visible cells, or maximum, of P over squares of ``block`` x ``block`` cells.

    [B, Hq, ceil(Tq / block), ceil(Tk / block)], in [0, 1]. Squares run over the indices of queries and keys, as in
    ``AttentionMap.pool``. Cells of queries that do not count are left out; a square without a visible cell gives 0. There
    is no query axis to reduce.
    """

    block: int
    op: Literal["mean", "max"] = "mean"
