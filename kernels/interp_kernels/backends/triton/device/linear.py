"""Row statistics that are sums over keys: the softmax's own sum, the entropy's moment, key masses and distances.

Each is a running sum g <- a g + sum_j p f(i, j), with a the factor by which the row's maximum rescales; P's is w g. Their
number is fixed at compile time and the sums are one tuple: first the columns of the key masses, then the distances.

An accumulator of the matrix units lies in rows of 8 columns, of which each of four threads has two side by side. So a tile
[M, N] is taken as N / 8 pieces [M, 4, 2], and added up piece after piece: one fused product and sum for each score. A sum is
kept in four parts, [M, 4], one for each thread, which are added once, after the last tile: sums across threads would cost
each statistic two shuffles a row and tile.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def each(N: tl.constexpr, x):
    """A tuple of N times x."""
    out = ()
    for _ in tl.static_range(N):
        out = out + (x,)
    return out


@triton.jit
def pieces(x, N: tl.constexpr):
    """A tile [M, N / 8, 4, 2] as a tuple of N / 8 pieces [M, 4, 2]."""
    if N == 8:
        out = (tl.reshape(x, [x.shape[0], 4, 2]),)
    else:
        halves = tl.permute(tl.reshape(x, [x.shape[0], 2, N // 16, 4, 2]), (0, 2, 3, 4, 1))
        left, right = tl.split(halves)
        out = pieces(left, N // 2) + pieces(right, N // 2)
    return out


@triton.jit
def columns():
    """The columns of a piece, [1, 4, 2]."""
    return (tl.arange(0, 4)[:, None] * 2 + tl.arange(0, 2)[None, :])[None, :, :]


@triton.jit
def summed(p):
    """The sum of the pieces, [M, 4, 2]."""
    out = p[0]
    for n in tl.static_range(1, len(p)):
        out += p[n]
    return out


@triton.jit
def products(p, t):
    """sum_j p t, in parts."""
    out = p[0] * t[0]
    for n in tl.static_range(1, len(p)):
        out += p[n] * t[n]
    return tl.sum(out, 2)


@triton.jit
def weighted(p, ptr):
    """sum_j p w in parts, with the tile's weights w at ``ptr``."""
    here = ptr + columns()
    out = p[0] * tl.load(here)
    for n in tl.static_range(1, len(p)):
        out += p[n] * tl.load(here + 8 * n)
    return tl.sum(out, 2)


@triton.jit
def left_distance(p, p_sum, i, start):
    """sum_j p (i - j) in parts, where no key lies right of a query; p_sum: ``summed``.

    With the last key e and the columns y in a piece, i - j = (i - e) + (e - j - (7 - y)) + (7 - y): one product with a
    constant for each score, and all terms of one sign.
    """
    before: tl.constexpr = 8 * len(p) - 8
    out = p_sum * ((i - start - before - 7).to(tl.float32)[:, None, None] + (7 - columns()).to(tl.float32))
    for n in tl.static_range(0, len(p) - 1):
        out += p[n] * (before - 8.0 * n)
    return tl.sum(out, 2)


@triton.jit
def clipped_distance(p, i, start, reach):
    """sum_j p min(|i - j|, reach) in parts, wherever the keys lie. Positions are below 2^24: their differences are exact."""
    right = ((i - start)[:, None, None] - columns()).to(tl.float32)
    out = p[0] * tl.minimum(tl.abs(right), reach)
    for n in tl.static_range(1, len(p)):
        out += p[n] * tl.minimum(tl.abs(right - 8.0 * n), reach)
    return tl.sum(out, 2)


@triton.jit
def distance(p, p_sum, i, start, first, last, reach, CLIPPED: tl.constexpr, IS_LEFT: tl.constexpr):
    """sum_j p min(|i - j|, reach) over the keys from ``start`` and positions first..last. IS_LEFT: none of these keys lies
    right of one of those queries; not CLIPPED: ``reach`` is beyond every distance.

    Farther than ``reach`` from all queries every key weighs ``reach``.
    """
    edge = start + 8 * len(p) - 1
    if IS_LEFT and not CLIPPED:
        value = left_distance(p, p_sum, i, start)
    elif (edge + reach <= first) | (last + reach <= start):
        value = tl.sum(p_sum, 2) * reach.to(tl.float32)
    elif (edge <= first) & (last - start <= reach):
        value = left_distance(p, p_sum, i, start)
    else:
        value = clipped_distance(p, i, start, reach.to(tl.float32))
    return value


@triton.jit
def gathered(
    g, p, p_sum, a, i, start, first, last, weight_ptr, weight_c, level_ptr, level_c, reach_ptr,
    MASSES: tl.constexpr, DISTANCES: tl.constexpr, CLIPPED: tl.constexpr, IS_LEFT: tl.constexpr, LEVEL: tl.constexpr,
):  # fmt: skip
    """The sums after one more tile: p the pieces of its weights from key ``start`` on, p_sum ``summed``, a [M] the rescaling.

    weight_ptr: at the sequence's (and head's) first key, padded to whole tiles; level_ptr: for every LEVEL keys the weight
    that all of them have, or NaN: only such a tile takes a product a score.
    """
    out = ()
    for n in tl.static_range(MASSES):
        level = tl.load(level_ptr + n * level_c + start // LEVEL)
        if level == level:
            value = tl.sum(p_sum, 2) * level
        else:
            value = weighted(p, weight_ptr + n * weight_c + start)
        out = out + (g[n] * a[:, None] + value,)
    for n in tl.static_range(DISTANCES):
        value = distance(p, p_sum, i, start, first, last, tl.load(reach_ptr + n), CLIPPED, IS_LEFT)
        out = out + (g[MASSES + n] * a[:, None] + value,)
    return out
