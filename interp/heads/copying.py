"""Copying: attention on earlier tokens that are equal to the token which comes next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from interp.errors import InputError
from interp.heads.detector import ProbeDetector
from interp.heads.samples import Windows
from interp.heads.tokens import has_earlier_copy, next_ids
from interp_kernels import LabelMatch, Probe


@dataclass(frozen=True)
class Copying(ProbeDetector):
    """On a text: mean of sum_(j<=i) A[i, j] [token_j = token_(i+1)] over the queries whose next token came before, in [0, 1].

    Where induction asks how a head finds its key (by what stood before it), this asks what stands there: the token that the
    model should predict. It says nothing of what the head writes. A text that repeats itself makes induction heads score on
    both; a head that looks at frequent words scores here alone, so compare with the chance level.

    Source: the induction of Olsson et al., In-context Learning and Induction Heads (arXiv 2209.11895), whose heads attend to
    the token that then comes next, as a score of the attention alone. No source gives a threshold for it.
    """

    name: str = "copying"
    definition: str = (
        "on a text: attention on earlier tokens that are equal to the next token, mean over the queries with one"
    )
    source: str = "after Olsson et al., arXiv 2209.11895"
    threshold: float = 0.4
    threshold_source: str = "of the other attention scores; no source gives one for this score"
    needs_text: bool = True

    def check(self, ids: list[Tensor]) -> None:
        if not any(bool(_is_preceded(sequence[None]).any()) for sequence in ids):
            raise InputError(f"{self.name}: the text is too short, none of its tokens comes twice; give a longer text")

    def samples(self) -> Windows:
        return Windows()

    def probes(self, ids: Tensor, prefix: int) -> list[Probe]:
        return [LabelMatch(next_ids(ids), ids, name=self.name, queries=_is_preceded(ids), reduce="mean")]

    def score(self, stats: Mapping[str, Tensor]) -> Tensor:
        return stats[self.name]


def _is_preceded(ids: Tensor) -> Tensor:
    """Whether the token after each position stands at or before it. ids: [B, T] -> bool [B, T]."""
    copies = torch.zeros_like(ids, dtype=torch.bool)
    copies[:, :-1] = has_earlier_copy(ids)[:, 1:]
    return copies
