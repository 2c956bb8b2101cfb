"""Duplicate-token heads: the attention on earlier copies of the query's own token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from interp.heads.detector import ProbeDetector
from interp.heads.samples import RepeatedRandom
from interp.heads.tokens import has_earlier_copy
from interp_kernels import LabelMatch, Probe


@dataclass(frozen=True)
class DuplicateToken(ProbeDetector):
    """Mean of sum_(j<i) A[i, j] [token_j = token_i] over the queries whose token came before, in [0, 1].

    Measured on repeated random tokens, where every token of the second copy has exactly one earlier copy: in prose most
    copies are commas and articles, and heads that look at those for other reasons would score.

    Source: TransformerLens, head_detector (duplicate_token_head); the threshold is that of ARENA's other attention scores.
    """

    name: str = "duplicate_token"
    definition: str = "attention on earlier copies of the query's token, mean over the queries that have one"
    source: str = "TransformerLens head_detector; Wang et al., arXiv 2211.00593"
    threshold: float = 0.4
    threshold_source: str = "as ARENA's exercises for the other attention scores"
    positions: int = 5

    def samples(self) -> RepeatedRandom:
        return RepeatedRandom()

    def probes(self, ids: Tensor, prefix: int) -> list[Probe]:
        copies = has_earlier_copy(ids)
        return [LabelMatch(ids, ids, strict=True, name=self.name, queries=copies, reduce="mean")]

    def score(self, stats: Mapping[str, Tensor]) -> Tensor:
        return stats[self.name]
