"""Induction heads: attention from a token to what followed its earlier copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from interp.errors import InputError
from interp.heads.detector import ProbeDetector
from interp.heads.samples import RepeatedRandom, Windows
from interp.heads.tokens import has_earlier_copy, previous_ids
from interp_kernels import LabelMatch, OffsetMass, Probe


@dataclass(frozen=True)
class Induction(ProbeDetector):
    """On BOS and N random tokens, twice: mean over the second copy of A[i, i-(N-1)], in [0, 1].

    Each query's token stood N positions before; the head looks one position after that copy. Several seeds, one sequence
    each; the standard error is over them.

    Source: Olsson et al., In-context Learning and Induction Heads (arXiv 2209.11895); TransformerLens' demonstration
    notebook, with N = 50.
    """

    name: str = "induction"
    definition: str = (
        "on N random tokens, twice: mean over the second copy of A[i, i-(N-1)], the token after the earlier copy"
    )
    source: str = "Olsson et al., arXiv 2209.11895; TransformerLens demo notebook"
    threshold: float = 0.4
    threshold_source: str = "ARENA exercises"
    positions: int = 5

    def samples(self) -> RepeatedRandom:
        return RepeatedRandom()

    def probes(self, ids: Tensor, prefix: int) -> list[Probe]:
        span = (ids.shape[-1] - prefix) // 2
        second = torch.arange(ids.shape[-1], device=ids.device) >= prefix + span
        return [OffsetMass((span - 1,), name=self.name, queries=second)]

    def score(self, stats: Mapping[str, Tensor]) -> Tensor:
        # Averaged here and not by the probe, whose mean leaves out pairs that a sliding window hides: they count as 0.
        return stats[self.name][..., 0].nanmean(dim=-1)


@dataclass(frozen=True)
class InductionText(ProbeDetector):
    """On a text: mean of sum_(j<=i) A[i, j] [token_(j-1) = token_i] over the queries whose token came before, in [0, 1].

    The same behaviour where it is of use: all keys that follow an earlier copy of the query's token count. Punctuation and
    frequent words have many copies, so chance is higher than on random tokens: compare with the chance level.

    Source: Olsson et al. (arXiv 2209.11895), the prefix-matching score, taken on natural text.
    """

    name: str = "induction_text"
    definition: str = "on a text: attention on tokens that follow an earlier copy of the query's token"
    source: str = "Olsson et al., arXiv 2209.11895, prefix matching"
    threshold: float = 0.4
    threshold_source: str = "as for induction on random tokens"
    needs_text: bool = True

    def check(self, ids: list[Tensor]) -> None:
        if not any(bool(has_earlier_copy(sequence[None]).any()) for sequence in ids):
            raise InputError(f"{self.name}: the text is too short, none of its tokens comes twice; give a longer text")

    def samples(self) -> Windows:
        return Windows()

    def probes(self, ids: Tensor, prefix: int) -> list[Probe]:
        copies = has_earlier_copy(ids)
        return [LabelMatch(ids, previous_ids(ids), name=self.name, queries=copies, reduce="mean")]

    def score(self, stats: Mapping[str, Tensor]) -> Tensor:
        return stats[self.name]
