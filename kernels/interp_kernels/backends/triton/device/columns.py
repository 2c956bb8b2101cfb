"""The second pass: sums over queries, c_j = sum_i w_i P_ij, with every row's normaliser known.

One program does BLOCK_N keys of one query head over all queries that may see them, in order, and alone writes their sums:
no atomics, the same bits run after run. The tile is held with keys as rows, so that the sum runs within threads.
"""

from __future__ import annotations

import triton
import triton.language as tl

from interp_kernels.backends.triton.device.linear import each
from interp_kernels.backends.triton.device.scores import (
    LENGTHS,
    head_inputs,
    load_rows,
    open_span,
    query_span,
    transformed,
    visible,
)


@triton.jit
def whole_sums(p, weights, stride, valid, N: tl.constexpr):
    """A tuple of N sums over queries of p [keys, queries] times a weight, of a tile that is visible whole."""
    out = ()
    for n in tl.static_range(N):
        w = tl.load(weights + n * stride, mask=valid, other=0.0)
        out = out + (tl.sum(p * w[None, :], 1),)
    return out


@triton.jit
def whole_counts(counts, stride, valid, N: tl.constexpr, BLOCK_N: tl.constexpr):
    """The same with p = 1."""
    out = ()
    for n in tl.static_range(N):
        w = tl.load(counts + n * stride, mask=valid, other=0.0)
        out = out + (tl.zeros([BLOCK_N], tl.float32) + tl.sum(w, 0),)
    return out


@triton.jit
def seen_sums(p, seen, weights, stride, valid, N: tl.constexpr):
    """The same over visible cells: a hidden one is 0 even where the row's weight is NaN."""
    out = ()
    for n in tl.static_range(N):
        w = tl.load(weights + n * stride, mask=valid, other=0.0)
        out = out + (tl.sum(tl.where(seen, p * w[None, :], 0.0), 1),)
    return out


@triton.jit
def plus(a, b, N: tl.constexpr):
    """Tuples, element by element."""
    out = ()
    for n in tl.static_range(N):
        out = out + (a[n] + b[n],)
    return out


@triton.jit(do_not_specialize=[*LENGTHS, "weight_n", "count_n"])
def columns_kernel(
    q_ptr, k_ptr, shift_ptr, weight_ptr, count_ptr, sum_ptr, seen_ptr, keep_ptr, document_ptr, alibi_ptr, bias_ptr,
    q_b, q_h, q_t, k_b, k_h, k_t, bias_b, bias_h, bias_i, bias_j, document_b,
    class_ptr, class_b, class_h, class_bias_ptr, class_bias_b, class_bias_h, class_bias_i, weight_n, count_n,
    heads, group, queries, keys, offset, window, c, gain, inner, hidden,
    D: tl.constexpr, D_PAD: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, KEEP: tl.constexpr, DOCUMENTS: tl.constexpr,
    ALIBI: tl.constexpr, BIAS: tl.constexpr, CLASSES: tl.constexpr, SOFTCAP: tl.constexpr, NEGATIVE: tl.constexpr,
    WEIGHTS: tl.constexpr, COUNTS: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """sum [WEIGHTS, B, Hq, Tk] of weight [WEIGHTS, B, Hq, Tq] times 2^((s - shift) c), and seen [COUNTS, B, Hq, Tk], the
    sums of count [COUNTS, B, Hq, Tq] over the queries that see the key. weight holds the row's factor.

    2^(...) is bounded by 1: scored again a key may exceed the row's maximum, or its log-sum-exp, by rounding.
    """
    blocks = tl.cdiv(keys, BLOCK_N)
    unit = tl.program_id(0) // blocks
    # Under a causal mask the first keys have the most queries, and start first.
    block = tl.program_id(0) % blocks
    batch = (unit // heads).to(tl.int64)
    head = unit % heads
    kv = (head // group).to(tl.int64)
    j = block * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = j < keys
    k = load_rows(k_ptr + batch * k_b + kv * k_h, k_t, j.to(tl.int64), inside, D, D_PAD)
    if NEGATIVE:
        k = -k
    q_here = q_ptr + batch * q_b + head.to(tl.int64) * q_h
    rows_before = unit.to(tl.int64) * queries
    first_key = block * BLOCK_N
    last_key = tl.minimum(first_key + BLOCK_N, keys) - 1
    lo, hi = query_span(first_key, last_key, queries, offset, window, CAUSAL, WINDOW)
    lo = lo // BLOCK_M * BLOCK_M

    sums = each(WEIGHTS, tl.zeros([BLOCK_N], tl.float32))
    seens = each(COUNTS, tl.zeros([BLOCK_N], tl.float32))
    for begin in tl.range(lo, hi, BLOCK_M):
        start = tl.multiple_of(begin, BLOCK_M)
        lane = tl.arange(0, BLOCK_M)
        row = start + lane
        valid = row < queries
        i = row + offset
        q = load_rows(q_here + tl.cast(start, tl.int64) * q_t, q_t, lane, valid, D, D_PAD)
        s = tl.dot(k, tl.trans(q), input_precision=PRECISION)
        keep_here, document_here, document_i, slope, bias_here, class_here, class_bias_here = head_inputs(
            batch, head, head + 0 * row, row, i, valid, keep_ptr, document_ptr, document_b, alibi_ptr,
            bias_ptr, bias_b, bias_h, class_ptr, class_b, class_h, class_bias_ptr, class_bias_b, class_bias_h, class_bias_i,
            keys, KEEP, DOCUMENTS, ALIBI, BIAS, CLASSES,
        )  # fmt: skip
        s = transformed(
            s, i[None, :], j[:, None], row[None, :], slope[None, :], bias_here[None, :], bias_i, bias_j,
            class_here, class_bias_here[None, :], queries, keys, gain, inner, hidden, ALIBI, BIAS, CLASSES, SOFTCAP,
        )  # fmt: skip
        shift = tl.load(shift_ptr + rows_before + row, mask=valid, other=0.0)
        x = (s - shift[None, :]) * c
        p = tl.exp2(tl.where(x > 0.0, 0.0, x))
        first = start + offset
        last = tl.minimum(start + BLOCK_M, queries) - 1 + offset
        open_lo, open_hi = open_span(first, last, keys, window, CAUSAL, WINDOW, KEEP, DOCUMENTS)
        # A bias may hide keys anywhere.
        whole = (open_lo <= first_key) & (last_key < open_hi) & (not (BIAS or CLASSES))
        weights = weight_ptr + rows_before + row
        counts = count_ptr
        if COUNTS > 0:
            counts = count_ptr + rows_before + row
        if whole:
            added = whole_sums(p, weights, weight_n, valid, WEIGHTS)
            counted = whole_counts(counts, count_n, valid, COUNTS, BLOCK_N)
        else:
            seen = visible(
                i[None, :], j[:, None], document_i[None, :], keep_here, document_here, keys, window,
                CAUSAL, WINDOW, KEEP, DOCUMENTS,
            ) & valid[None, :]  # fmt: skip
            if BIAS or CLASSES:
                seen = seen & ~(s <= 0.5 * hidden)
            added = seen_sums(p, seen, weights, weight_n, valid, WEIGHTS)
            counted = seen_sums(1.0, seen, counts, count_n, valid, COUNTS)
        sums = plus(sums, added, WEIGHTS)
        seens = plus(seens, counted, COUNTS)
    at = unit.to(tl.int64) * keys + j
    columns = (tl.num_programs(0) // blocks).to(tl.int64) * keys
    for n in tl.static_range(WEIGHTS):
        tl.store(sum_ptr + n * columns + at, sums[n], mask=inside)
    for n in tl.static_range(COUNTS):
        tl.store(seen_ptr + n * columns + at, seens[n], mask=inside)
