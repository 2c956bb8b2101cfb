"""Next-token heads: mean over queries of A[i, i+1]. Of encoders, whose heads see what comes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from interp.heads.detector import ProbeDetector
from interp.heads.samples import Windows
from interp_kernels import OffsetMass, Probe

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel


@dataclass(frozen=True)
class NextToken(ProbeDetector):
    """Mean over the queries that have a next token of A[i, i+1], in [0, 1]. For models that see both ways.

    Source: Clark et al., What Does BERT Look At? (arXiv 1906.04341), section 3.1, which counts the heads that put more than
    half of their attention there: five of BERT's 144.
    """

    name: str = "next_token"
    definition: str = (
        "mean over all positions i but the last of A[i, i+1]: the attention on the token just after, where heads see it"
    )
    source: str = "Clark et al., arXiv 1906.04341, section 3.1"
    threshold: float = 0.5
    threshold_source: str = "the share above which Clark et al., arXiv 1906.04341, count such heads of BERT"
    is_causal: bool = False

    def is_standard_for(self, model: HookedModel) -> bool:
        return not model.shape.is_causal

    def unfit(self, model: HookedModel) -> str | None:
        if model.shape.is_causal:
            return f"the next token lies ahead, and {model.name} looks back only"
        return None

    def samples(self) -> Windows:
        return Windows()

    def probes(self, ids: Tensor, prefix: int) -> list[Probe]:
        return [OffsetMass((-1,), name=self.name, reduce="mean")]

    def score(self, stats: Mapping[str, Tensor]) -> Tensor:
        return stats[self.name][..., 0]
