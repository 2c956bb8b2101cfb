"""Row statistics that are sums over keys: the softmax's own sum, the entropy's moment, key masses and distances.

Each is a running sum g <- a g + sum_j p f(i, j), with a the factor by which the row's maximum rescales; P's is w g. Their
number is fixed at compile time and the sums are one tuple: first the columns of the key masses, then the distances.

An accumulator of the matrix units lies in rows of 8 columns, of which each of four threads has two side by side. So a tile
[M, N] is taken as N / 8 pieces [M, 4, 2], and added up piece after piece: one fused product and sum for each score. A sum is
kept in four parts, [M, 4], one for each thread, which are added once, after the last tile: sums across threads would cost
each statistic two shuffles a row and tile. In float32, whose products take no matrix units and nearly all time, a tile is one
piece [M, N, 1], and a sum has one part.
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
def by_thread(x, IS_FLOAT32: tl.constexpr):
    """A tile [M, N] as [M, pieces, columns of a piece, side by side]."""
    if IS_FLOAT32:
        out = tl.reshape(x, [x.shape[0], 1, x.shape[1], 1])
    else:
        out = tl.reshape(x, [x.shape[0], x.shape[1] // 8, 4, 2])
    return out


@triton.jit
def pieces(x):
    """The pieces of such a tile, a tuple."""
    M: tl.constexpr = x.shape[0]
    N: tl.constexpr = x.shape[1]
    if N == 1:
        out = (tl.reshape(x, [M, x.shape[2], x.shape[3]]),)
    else:
        halves = tl.permute(tl.reshape(x, [M, 2, N // 2, x.shape[2], x.shape[3]]), (0, 2, 3, 4, 1))
        left, right = tl.split(halves)
        out = pieces(left) + pieces(right)
    return out


@triton.jit
def columns(piece):
    """The columns of a piece, [1, ., .]."""
    SIDES: tl.constexpr = piece.shape[2]
    return (tl.arange(0, piece.shape[1])[:, None] * SIDES + tl.arange(0, SIDES)[None, :])[None, :, :]


@triton.jit
def parts(piece):
    """The sum of a piece in parts, [M, 4] or [M, 1]."""
    out = tl.sum(piece, 2)
    if piece.shape[2] == 1:
        out = tl.sum(out, 1)[:, None]
    return out


@triton.jit
def summed(p):
    """The sum of the pieces, itself a piece."""
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
    return parts(out)


@triton.jit
def weighted(p, ptr):
    """sum_j p w in parts, with the tile's weights w at ``ptr``."""
    WIDTH: tl.constexpr = p[0].shape[1] * p[0].shape[2]
    here = ptr + columns(p[0])
    out = p[0] * tl.load(here)
    for n in tl.static_range(1, len(p)):
        out += p[n] * tl.load(here + WIDTH * n)
    return parts(out)


@triton.jit
def left_distance(p, p_sum, i, start):
    """sum_j p (i - j) in parts, where no key lies right of a query; p_sum: ``summed``.

    With the last key e, the last column z of a piece and the columns y of its own, i - j = (i - e) + (e - j - (z - y)) +
    (z - y): one product with a constant for each score, and all terms of one sign.
    """
    WIDTH: tl.constexpr = p[0].shape[1] * p[0].shape[2]
    before: tl.constexpr = WIDTH * (len(p) - 1)
    nearest = (i - start - (before + WIDTH - 1)).to(tl.float32)
    out = p_sum * (nearest[:, None, None] - (columns(p[0]) - (WIDTH - 1)).to(tl.float32))
    for n in tl.static_range(0, len(p) - 1):
        out += p[n] * (before - 1.0 * WIDTH * n)
    return parts(out)


@triton.jit
def clipped_distance(p, i, start, reach):
    """sum_j p min(|i - j|, reach) in parts, wherever the keys lie. Positions are below 2^24: their differences are exact."""
    WIDTH: tl.constexpr = p[0].shape[1] * p[0].shape[2]
    right = ((i - start)[:, None, None] - columns(p[0])).to(tl.float32)
    out = p[0] * tl.minimum(tl.abs(right), reach)
    for n in tl.static_range(1, len(p)):
        out += p[n] * tl.minimum(tl.abs(right - 1.0 * WIDTH * n), reach)
    return parts(out)


@triton.jit
def distance(p, p_sum, i, start, first, last, reach, CLIPPED: tl.constexpr, IS_LEFT: tl.constexpr):
    """sum_j p min(|i - j|, reach) over the keys from ``start`` and positions first..last. IS_LEFT: none of these keys lies
    right of one of those queries; not CLIPPED: ``reach`` is beyond every distance.

    Farther than ``reach`` from all queries every key weighs ``reach``.
    """
    edge = start + p[0].shape[1] * p[0].shape[2] * len(p) - 1
    if IS_LEFT and not CLIPPED:
        value = left_distance(p, p_sum, i, start)
    elif (edge + reach <= first) | (last + reach <= start):
        value = parts(p_sum) * reach.to(tl.float32)
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
            value = parts(p_sum) * level
        else:
            value = weighted(p, weight_ptr + n * weight_c + start)
        out = out + (g[n] * a[:, None] + value,)
    for n in tl.static_range(DISTANCES):
        value = distance(p, p_sum, i, start, first, last, tl.load(reach_ptr + n), CLIPPED, IS_LEFT)
        out = out + (g[MASSES + n] * a[:, None] + value,)
    return out
