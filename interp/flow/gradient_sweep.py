"""Rows of the relevance R of Chefer et al. (arXiv 2103.15679) by products with lazy maps: R itself is never built.

A_l stands for Abar_l = mean_h max(0, dA * A) of self-attention layer l (equation 5), C_l for that of the cross attention. From

    R_l = R_(l-1) + A_l R_(l-1),  R_0 = I        (6)

follows R_L = (I + A_L) ... (I + A_1): a row of it starts at the last layer, r <- r + A_l^T r, downwards. Going up, as the
equation reads, would need all of R. The other way round, R_L x goes up: u <- u + A_l (x + u).

All functions leave the identity out, (R - I)^T e and (R - I) x: beside a 1 small relevance would lose its digits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from interp_kernels import AttentionMap


def rows(maps: Sequence[AttentionMap], start: Tensor) -> Tensor:
    """(R - I)^T e, [B, T, C], for start e [B, T, C]; maps from the first layer to the last, weighted by their gradients."""
    found = torch.zeros_like(start)
    for weighted in reversed(maps):
        found = found + _received(weighted, start + found)
    return found


def applied(maps: Sequence[AttentionMap], x: Tensor) -> Tensor:
    """(R - I) x, [B, T, C], for x [B, T, C]."""
    found = torch.zeros_like(x)
    for weighted in maps:
        found = found + _read(weighted, x + found)
    return found


def cross_rows(
    encoder: Sequence[AttentionMap], decoder: Sequence[AttentionMap], cross: Sequence[AttentionMap], start: Tensor
) -> Tensor:
    """Rows of R^de, what the decoder's positions owe to the encoder's tokens: e^T R^de, [B, T_e, C], for e [B, T_d, C].

    In layer l, after its self attention (7) and in its cross attention (10),

        R^de <- R^de + A_l R^de
        R^de <- R^de + (Rbar^dd_l)^T C_l Rbar^ee,  Rbar = D^-1 (R - I) + I, D the row sums of R - I  (8, 9)

    so that e^T R^de = sum_l y_l^T C_l Rbar^ee with y_l = Rbar^dd_l w_l and w_l = (I + A_(l+1))^T ... (I + A_L)^T e: sweeps down
    for w_l, up for y_l and D, and one down the encoder. L (L + 3) products of the decoder's maps, L of the cross attention's and
    2 L of the encoder's, each O(T) memory.
    """
    written = start
    ones = torch.ones_like(start[..., :1])
    given = start.new_zeros(start.shape[0], cross[0].shape[3], start.shape[2])
    for layer in reversed(range(len(decoder))):
        below = decoder[: layer + 1]
        given = given + _received(cross[layer], written + _normalised(below, ones, written))
        written = written + _received(decoder[layer], written)
    ones = torch.ones_like(given[..., :1])
    return given + rows(encoder, given * _inverse(applied(encoder, ones)))


def _normalised(maps: Sequence[AttentionMap], ones: Tensor, x: Tensor) -> Tensor:
    """D^-1 (R - I) x."""
    both = applied(maps, torch.cat([x, ones.expand(*x.shape[:2], 1)], dim=-1))
    return both[..., :-1] * _inverse(both[..., -1:])


def _inverse(sums: Tensor) -> Tensor:
    """1 / sums; 0 where a row is empty: it stays the identity's row."""
    return torch.where(sums > 0, 1 / sums.clamp(min=torch.finfo(sums.dtype).tiny), 0.0)


def _received(weighted: AttentionMap, r: Tensor) -> Tensor:
    """A^T r, [B, Tk, C], for r [B, Tq, C]; summed in the dtype of r."""
    heads = weighted.shape[1]
    return weighted.rmatmul(r[:, None].expand(-1, heads, -1, -1)).to(r.dtype).mean(dim=1)


def _read(weighted: AttentionMap, x: Tensor) -> Tensor:
    """A x, [B, Tq, C], for x [B, Tk, C]."""
    return weighted.matmul(x).to(x.dtype).mean(dim=1)
