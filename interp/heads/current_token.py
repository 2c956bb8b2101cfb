"""Current-token heads: mean over queries of A[i, i]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from interp.heads.detector import ProbeDetector
from interp.heads.samples import Windows
from interp_kernels import OffsetMass, Probe


@dataclass(frozen=True)
class CurrentToken(ProbeDetector):
    """Mean over all queries of A[i, i], in [0, 1]. The first query, which sees only itself, counts with 1.

    Source: TransformerLens' demonstration notebook; the threshold is the one of ARENA's exercises.
    """

    name: str = "current_token"
    definition: str = "mean over all positions i of A[i, i]: the attention of a token on itself"
    source: str = "TransformerLens demo notebook"
    threshold: float = 0.4
    threshold_source: str = "ARENA exercises"
    is_causal: bool = False

    def samples(self) -> Windows:
        return Windows()

    def probes(self, ids: Tensor, prefix: int) -> list[Probe]:
        return [OffsetMass((0,), name=self.name, reduce="mean")]

    def score(self, stats: Mapping[str, Tensor]) -> Tensor:
        return stats[self.name][..., 0]
