"""Row statistics that are linear in P, as device functions: label matches, key masses and distances ride in the forward pass.

Each is a running sum g <- a g + sum_j p f(i, j), with a the factor by which the row's maximum rescales; P's is w g. Their
number is fixed at compile time and the sums are one tuple of [M] vectors: first the labels, then the columns of the key
masses, then the distances. Where a whole tile lies on one side of its queries the order of j and i costs nothing.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def zeros(N: tl.constexpr, M: tl.constexpr):
    """A tuple of N zero vectors [M]."""
    out = ()
    for _ in tl.static_range(N):
        out = out + (tl.zeros([M], tl.float32),)
    return out


@triton.jit
def load_each(ptr, stride, index, mask, N: tl.constexpr):
    """A tuple of N vectors: ptr[n stride + index]."""
    out = ()
    for n in tl.static_range(N):
        out = out + (tl.load(ptr + n * stride + index, mask=mask, other=0.0),)
    return out


@triton.jit
def label_mass(p, a, b, i, j, is_left, STRICT: tl.constexpr):
    """sum_j p [a_i = b_j], with STRICT over j < i; ``is_left``: the whole tile lies there."""
    match = a[:, None] == b[None, :]
    if STRICT:
        if is_left:
            mass = tl.sum(tl.where(match, p, 0.0), 1)
        else:
            mass = tl.sum(tl.where(match & (j[None, :] < i[:, None]), p, 0.0), 1)
    else:
        mass = tl.sum(tl.where(match, p, 0.0), 1)
    return mass


@triton.jit
def distance(p, tile_sum, i, j, start, stop, first, last, reach):
    """sum_j p min(|i - j|, reach) over keys start..stop - 1 and positions first..last.

    On the left of all queries i - j = (i - e) + (e - j) with e the last key: one product a score, of terms of one sign.
    Farther than ``reach`` from all of them every key weighs ``reach``.
    """
    edge = stop - 1
    if (edge + reach <= first) | (last + reach <= start):
        value = tile_sum * reach.to(tl.float32)
    elif (edge <= first) & (last - start <= reach):
        value = tile_sum * (i - edge).to(tl.float32) + tl.sum(p * (edge - j).to(tl.float32)[None, :], 1)
    else:
        # Positions are below 2^24, so their differences are exact.
        apart = tl.abs(i.to(tl.float32)[:, None] - j.to(tl.float32)[None, :])
        value = tl.sum(p * tl.minimum(apart, reach.to(tl.float32)), 1)
    return value


@triton.jit
def gathered(
    g, p, tile_sum, a, labels, i, j, start, stop, first, last, keys,
    label_ptr, label_n, weight_ptr, weight_c, reach_ptr,
    LABELS: tl.constexpr, STRICT: tl.constexpr, MASSES: tl.constexpr, DISTANCES: tl.constexpr,
):  # fmt: skip
    """The sums after one more tile: p [M, N] its weights, tile_sum their row sums, a [M] the rescaling.

    labels: the queries' labels, a tuple of [M]; label_ptr, weight_ptr: at the sequence's (and head's) first key; STRICT: bit
    n set if label n is strict.
    """
    inside = j < keys
    out = ()
    for n in tl.static_range(LABELS):
        b = tl.load(label_ptr + n * label_n + j, mask=inside, other=-1.0)
        out = out + (g[n] * a + label_mass(p, labels[n], b, i, j, stop <= first, (STRICT >> n) & 1),)
    for n in tl.static_range(MASSES):
        w = tl.load(weight_ptr + n * weight_c + j, mask=inside, other=0.0)
        out = out + (g[LABELS + n] * a + tl.sum(p * w[None, :], 1),)
    for n in tl.static_range(DISTANCES):
        value = distance(p, tile_sum, i, j, start, stop, first, last, tl.load(reach_ptr + n))
        out = out + (g[LABELS + MASSES + n] * a + value,)
    return out
