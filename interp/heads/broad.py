"""Broad heads: no single key has much of their attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from interp.errors import InputError
from interp.heads.detector import ProbeDetector
from interp.heads.samples import Windows
from interp_kernels import KeyMass, Peak, Probe

KEYS = 10
"""Whoever sees fewer keys has more than a tenth of the attention on one of them, whatever the head does."""


@dataclass(frozen=True)
class Broad(ProbeDetector):
    """Mean over the positions i >= 9 of 1 - max_j A[i, j] / sum_j A[i, j], in [0, 1].

    A query of a decoder at i sees i + 1 keys, so that 1 - 1 / (i + 1) is the most it can score: the first nine could not be
    above the threshold and would make every head look narrow, the more so the shorter the window. They are left out, of
    encoders too, so that both are measured on the same positions. Where a sliding window shows ten keys or fewer no head is
    broad. The sum is 1 but for models with sink logits (gpt-oss): what a head puts on its sink it puts on no key, and that
    does not make it broad. A query with nothing on its keys does not count.

    Chance is the largest score that there is, as nothing is broader than uniform attention: no level to be above, and itself
    above the threshold wherever more than ten keys are seen.

    Source: Clark et al., What Does BERT Look At? (arXiv 1906.04341), section 3.3, which finds these heads by their entropy and
    says that they typically spend at most 10 % of their attention on any single word. That this is taken as the score, and the
    positions, are ours.
    """

    name: str = "broad"
    definition: str = (
        "mean over positions i >= 9 of 1 - max_j A[i, j]: what a token does not give to the one it looks at most; uniform "
        "attention, the chance level, is the largest"
    )
    source: str = "after Clark et al., arXiv 1906.04341, section 3.3"
    threshold: float = 0.9
    threshold_source: str = (
        "at most 10 % on any single word, as Clark et al., arXiv 1906.04341, say of BERT's broad heads"
    )
    is_causal: bool = False
    positions: int = KEYS

    @property
    def is_standard(self) -> bool:
        """Only when named: heads that look nowhere in particular are many, and its chance level is no level to be above."""
        return False

    def check(self, ids: list[Tensor]) -> None:
        longest = max(sequence.numel() for sequence in ids)
        if longest < KEYS:
            raise InputError(
                f"{self.name}: it needs {KEYS} positions, and the text has {longest}, special tokens included; give a longer text"
            )

    def samples(self) -> Windows:
        return Windows()

    def probes(self, ids: Tensor, prefix: int) -> list[Probe]:
        keys = torch.ones(ids.shape[-1], 1, device=ids.device)
        return [Peak(name=self.name), KeyMass(keys, name=f"{self.name}_sum")]

    def score(self, stats: Mapping[str, Tensor]) -> Tensor:
        largest, total = stats[self.name], stats[f"{self.name}_sum"][..., 0]
        return 1 - (largest / total)[..., KEYS - 1 :].nanmean(dim=-1)
