"""Hidden sinks: heads that park their attention on one column that is not the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from interp.heads.detector import ProbeDetector
from interp.heads.first_token_sink import LENGTH
from interp.heads.samples import Windows
from interp_kernels import Probe, Received

MIN_QUERIES = 10
"""Queries after a column. With so many, the whole attention of one query alone is alpha = 1 / 11, below the threshold of 0.1."""


@dataclass(frozen=True)
class HiddenSink(ProbeDetector):
    """Mean over sequences of 64 positions of max_k alpha_k, alpha_k = sum_i A[i, k] / (queries that see k), in [0, 1].

    k runs over the positions 1 to 53, which 10 later queries follow. It may be another one in each sequence, where the token
    that draws the attention stands elsewhere; ``interp.heads.sinks`` tells which. Chance is the largest alpha_k of uniform
    attention, alpha_1 = 0.06 on a full causal map. Decoders only: of an encoder use ``interp.heads.sinks``.

    Source: Yu et al., Unveiling and Harnessing Hidden Attention Sinks (arXiv 2406.15765), whose columns with alpha_k > 0.1 these
    are; that a head is scored by its largest one, and the 10 later queries (1 in their code), are ours.
    """

    name: str = "hidden_sink"
    definition: str = (
        "mean over windows of 64 positions of the largest alpha_k, k from 1 to 53: the attention on one position that is not the "
        "first, mean over the queries that see it"
    )
    source: str = "Yu et al., arXiv 2406.15765"
    threshold: float = 0.1
    threshold_source: str = "alpha that a sink exceeds in Yu et al., arXiv 2406.15765"
    positions: int = LENGTH

    @property
    def is_standard(self) -> bool:
        """Only when named: a maximum over 53 columns of a few dozen queries each is above the threshold in many idle heads."""
        return False

    def samples(self) -> Windows:
        return Windows(length=LENGTH)

    def probes(self, ids: Tensor, prefix: int) -> list[Probe]:
        return [Received(normalize=True, name=self.name)]

    def score(self, stats: Mapping[str, Tensor]) -> Tensor:
        return stats[self.name][..., 1 : LENGTH - MIN_QUERIES].amax(dim=-1)
