"""First-token sinks: heads that park their attention on the first position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from interp.heads.detector import ProbeDetector
from interp.heads.samples import Windows
from interp_kernels import KeyMass, Probe

LENGTH = 64


@dataclass(frozen=True)
class FirstTokenSink(ProbeDetector):
    """Mean over sequences of 64 positions of alpha_0 = sum_i A[i, 0] / T = mean_i A[i, 0], in [0, 1].

    The share of sequences with alpha_0 above 0.3, whose mean over heads is the paper's Sink_1, stands in ``share_above``.

    Source: Gu et al., When Attention Sink Emerges in Language Models (arXiv 2410.10781): alpha_k with k counted from 0 there
    as here, T = 64, epsilon = 0.3.
    """

    name: str = "first_token_sink"
    definition: str = (
        "mean over windows of 64 positions of alpha_0 = mean over i of A[i, 0]: the attention on the first position"
    )
    source: str = "Gu et al., arXiv 2410.10781"
    threshold: float = 0.3
    threshold_source: str = "epsilon of Gu et al., arXiv 2410.10781"
    is_causal: bool = False
    positions: int = LENGTH

    def samples(self) -> Windows:
        return Windows(length=LENGTH)

    def probes(self, ids: Tensor, prefix: int) -> list[Probe]:
        first = torch.zeros(ids.shape[-1], 1, device=ids.device)
        first[0] = 1.0
        return [KeyMass(first, name=self.name, reduce="mean")]

    def score(self, stats: Mapping[str, Tensor]) -> Tensor:
        return stats[self.name][..., 0]
