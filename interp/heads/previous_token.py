"""Previous-token heads: mean over queries of A[i, i-1]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from interp.heads.detector import ProbeDetector
from interp.heads.samples import Windows
from interp_kernels import OffsetMass, Probe


@dataclass(frozen=True)
class PreviousToken(ProbeDetector):
    """Mean over the queries that have a previous token of A[i, i-1], in [0, 1].

    Source: TransformerLens' demonstration notebook; the threshold is the one of ARENA's exercises.
    """

    name: str = "previous_token"
    definition: str = "mean over positions i >= 1 of A[i, i-1]: the attention on the token just before"
    source: str = "TransformerLens demo notebook; Elhage et al. 2021, A Mathematical Framework for Transformer Circuits"
    threshold: float = 0.4
    threshold_source: str = "ARENA exercises"
    is_causal: bool = False

    def samples(self) -> Windows:
        return Windows()

    def probes(self, ids: Tensor, prefix: int) -> list[Probe]:
        return [OffsetMass((1,), name=self.name, reduce="mean")]

    def score(self, stats: Mapping[str, Tensor]) -> Tensor:
        return stats[self.name][..., 0]
