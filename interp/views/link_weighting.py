"""What a view shows of a head's map: the attention itself, or a reweighting of it that answers another question."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from interp.errors import InputError
from interp.naming import nearest
from interp_kernels import AttentionMap

Weighting = Literal["attention", "value_norm", "without_first"]

MEANING: dict[str, str] = {
    "attention": "attention weight",
    "value_norm": "share of attention weight × value norm",
    "without_first": "share of the attention that does not go to the first token",
}
"""In words, for a legend."""


def check_weighting(given: object) -> None:
    """Refuse a weighting that does not exist.

    Raises:
        InputError: with the nearest that does.
    """
    if given not in get_args(Weighting):
        raise InputError(f"weighting: there is no {given!r}; {nearest(str(given), get_args(Weighting))}")


def reweighting(head: AttentionMap, first: int, weighting: Weighting) -> Callable[[Tensor, int], Tensor]:
    """A function of rows P [n, c] of one head and the column that they begin with, which gives W [n, c]. It may overwrite P.

        "attention"      W_ij = P_ij
        "value_norm"     W_ij = P_ij ||v_j|| / sum_k P_ik ||v_k||
        "without_first"  W_ij = P_ij / sum_(k != first) P_ik, and 0 for j = first

    The columns must be all that the rows see. Rows of W sum to 1, or are 0 where the sum is. P times value norm is the length
    of what a key's value adds to the head's output (Kobayashi et al., "Attention is Not Only a Weight", arXiv 2004.10102).
    Without the first token (and without sink logits, which are no key) small weights are seen that a sink hides; where nearly
    all goes to it, they are magnified with their rounding.

    Args:
        head: shape (1, 1, Tq, Tk).
        first: the first token's column, which padding on the left moves.
    """
    if weighting == "attention":
        return lambda p, start: p
    norms = head.operands.v[0, 0].to(head.lse.dtype).norm(dim=-1) if weighting == "value_norm" else None

    def apply(p: Tensor, start: int) -> Tensor:
        if norms is not None:
            p = p * norms[start : start + p.shape[1]]
        elif start <= first < start + p.shape[1]:
            p[:, first - start] = 0.0
        total = p.sum(dim=1, keepdim=True, dtype=torch.float64)
        return torch.where(total > 0, p / torch.where(total > 0, total, 1.0), 0.0).to(p.dtype)

    return apply
