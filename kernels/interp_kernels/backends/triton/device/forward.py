"""The forward pass: attention with an online softmax in base 2, and the row statistics that ride in it.

One program does BLOCK_M rows of one head over all keys that they may see, BLOCK_N at a time; tiles that every row sees
whole take no mask. Statistics stand under compile-time flags and cost nothing when off.
"""

from __future__ import annotations

import triton
import triton.language as tl

from interp_kernels.backends.triton.device.ends import closed, entropy
from interp_kernels.backends.triton.device.linear import by_thread, each, gathered, parts, pieces, products, summed
from interp_kernels.backends.triton.device.scores import (
    LENGTHS,
    head_inputs,
    key_span,
    load_rows,
    masked,
    open_scores,
    open_span,
    tile_scores,
)


@triton.jit
def section(
    m, found, total, moment, g, acc, begin, end, open_lo, open_hi, q, k_ptr, v_ptr, k_t, v_t, i, row, first, last,
    slope, bias_here, bias_i, bias_j, class_here, class_bias_here, document_i, keep_here, document_here,
    weight_here, weight_c, level_here, level_c, reach_ptr, queries, keys, window, c, gain, inner, hidden,
    D: tl.constexpr, D_PAD: tl.constexpr, DV: tl.constexpr, DV_PAD: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, KEEP: tl.constexpr, DOCUMENTS: tl.constexpr,
    ALIBI: tl.constexpr, BIAS: tl.constexpr, CLASSES: tl.constexpr, SOFTCAP: tl.constexpr,
    ENTROPY: tl.constexpr, PEAK: tl.constexpr, MASSES: tl.constexpr, DISTANCES: tl.constexpr, CLIPPED: tl.constexpr,
    LEVEL: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    OPEN: tl.constexpr,
):  # fmt: skip
    """The state of a block's rows after the tiles of keys from ``begin`` to ``end``. OPEN: every row sees them whole."""
    lane = tl.arange(0, BLOCK_N)
    for at in tl.range(begin, end, BLOCK_N):
        start = tl.multiple_of(at, BLOCK_N)
        if q.dtype == tl.float32 and not OPEN:
            s = tile_scores(
                q, k_ptr, k_t, start, i, row, slope, bias_here, bias_i, bias_j, class_here, class_bias_here,
                document_i, keep_here, document_here, queries, keys, window, gain, inner, hidden, open_lo, open_hi,
                D, D_PAD, CAUSAL, WINDOW, KEEP, DOCUMENTS, ALIBI, BIAS, CLASSES, SOFTCAP, PRECISION, BLOCK_N,
            )  # fmt: skip
        else:
            s = open_scores(
                q, k_ptr, k_t, start, i, row, slope, bias_here, bias_i, bias_j, class_here, class_bias_here, queries, keys,
                gain, inner, hidden, D, D_PAD, ALIBI, BIAS, CLASSES, SOFTCAP, PRECISION, BLOCK_N, OPEN,
            )  # fmt: skip
            if not OPEN:
                s = masked(
                    s, start, i, document_i, keep_here, document_here, keys, window, hidden,
                    CAUSAL, WINDOW, KEEP, DOCUMENTS, BLOCK_N,
                )  # fmt: skip
        s = by_thread(s, q.dtype == tl.float32)
        tile_max = tl.max(tl.max(tl.max(s, 1), 2), 1)
        risen = tl.maximum(m, tile_max)
        # Rows that have seen no key are shifted by 0: their hidden scores then weigh 0, as they must.
        shift = tl.where(risen <= 0.5 * hidden, 0.0, risen)
        a = tl.exp2((m - shift) * c)
        t = s - shift[:, None, None, None]
        p = tl.exp2(t * c)
        p_pieces = pieces(p)
        p_sum = summed(p_pieces)
        if ENTROPY:
            moment = a[:, None] * (moment + (m - shift)[:, None] * total) + products(p_pieces, pieces(t))
        if PEAK:
            found = tl.where(tile_max > m, start, found)
        if MASSES + DISTANCES > 0:
            g = gathered(
                g, p_pieces, p_sum, a, i, start, first, last, weight_here, weight_c, level_here, level_c, reach_ptr,
                MASSES, DISTANCES, CLIPPED, OPEN and CAUSAL, LEVEL,
            )  # fmt: skip
        total = total * a[:, None] + parts(p_sum)
        m = risen
        v = load_rows(v_ptr + tl.cast(start, tl.int64) * v_t, v_t, lane, start + lane < keys, DV, DV_PAD, OPEN)
        weights = tl.reshape(p.to(v.dtype), [BLOCK_M, BLOCK_N])
        acc = tl.dot(weights, v, acc * a[:, None], input_precision=PRECISION)
    return m, found, total, moment, g, acc


@triton.jit(do_not_specialize=[*LENGTHS, "splits", "level_b", "level_h", "level_c"])
def forward_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, shift_ptr, factor_ptr, tile_ptr, entropy_ptr, linear_ptr,
    keep_ptr, document_ptr, sink_ptr, alibi_ptr, bias_ptr, weight_ptr, level_ptr, reach_ptr,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, bias_b, bias_h, bias_i, bias_j, document_b,
    class_ptr, class_b, class_h, class_bias_ptr, class_bias_b, class_bias_h, class_bias_i,
    weight_b, weight_h, weight_c, level_b, level_h, level_c,
    heads, group, queries, keys, offset, window, splits, c, gain, inner, nat, hidden,
    D: tl.constexpr, D_PAD: tl.constexpr, DV: tl.constexpr, DV_PAD: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, KEEP: tl.constexpr, DOCUMENTS: tl.constexpr,
    SINKS: tl.constexpr, ROW_SINKS: tl.constexpr, ALIBI: tl.constexpr, BIAS: tl.constexpr, CLASSES: tl.constexpr,
    SOFTCAP: tl.constexpr, NEGATIVE: tl.constexpr,
    STATE: tl.constexpr, ENTROPY: tl.constexpr, PEAK: tl.constexpr, MASSES: tl.constexpr, DISTANCES: tl.constexpr,
    CLIPPED: tl.constexpr, LEVEL: tl.constexpr, PACKED: tl.constexpr, SPLIT: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Writes, for every row (flat over [B, Hq, Tq]): the output, the log-sum-exp in nats, the maximum score (shift) and the
    factor w with P = w 2^((s - shift) c), the key tile in which the maximum lies, the entropy, and the linear statistics
    [G, rows].

    PACKED: the rows are those of all query heads of a KV head, so that few queries fill a block; else of one query head.
    SPLIT: this program sees one of ``splits`` ranges of keys and writes its unnormalised state instead (``merge``).
    """
    blocks = tl.cdiv(queries * group if PACKED else queries, BLOCK_M)
    pid = tl.program_id(0)
    # Under a causal mask the last rows have the most keys: they start first.
    block = blocks - 1 - pid % blocks
    unit = pid // blocks
    r = block * BLOCK_M + tl.arange(0, BLOCK_M)
    if PACKED:
        kv_heads = heads // group
        batch = unit // kv_heads
        kv = unit % kv_heads
        head = kv * group
        h = head + r // queries
        row = r % queries
        valid = r < group * queries
        first = offset
        last = offset + queries - 1
    else:
        batch = unit // heads
        head = unit % heads
        kv = head // group
        h = head + 0 * r
        row = r
        valid = r < queries
        first = offset + block * BLOCK_M
        last = offset + tl.minimum(block * BLOCK_M + BLOCK_M, queries) - 1
    i = row + offset
    batch = batch.to(tl.int64)

    q = load_rows(q_ptr + batch * q_b, 1, h.to(tl.int64) * q_h + row.to(tl.int64) * q_t, valid, D, D_PAD)
    if NEGATIVE:
        q = -q
    k_ptr += batch * k_b + kv.to(tl.int64) * k_h
    v_ptr += batch * v_b + kv.to(tl.int64) * v_h
    keep_here, document_here, document_i, slope, bias_here, class_here, class_bias_here = head_inputs(
        batch, head, h, row, i, valid, keep_ptr, document_ptr, document_b, alibi_ptr, bias_ptr, bias_b, bias_h,
        class_ptr, class_b, class_h, class_bias_ptr, class_bias_b, class_bias_h, class_bias_i, keys,
        KEEP, DOCUMENTS, ALIBI, BIAS, CLASSES,
    )  # fmt: skip
    weight_here = weight_ptr
    level_here = level_ptr
    if MASSES > 0:
        weight_here = weight_ptr + batch * weight_b + head.to(tl.int64) * weight_h
        level_here = level_ptr + batch * level_b + head.to(tl.int64) * level_h

    lo, hi = key_span(first, last, keys, window, CAUSAL, WINDOW)
    lo = lo // BLOCK_N * BLOCK_N
    if SPLIT:
        share = tl.cdiv(tl.cdiv(tl.maximum(hi - lo, 0), BLOCK_N), splits) * BLOCK_N
        lo += share * tl.program_id(1)
        hi = tl.minimum(hi, lo + share)
    # The tiles of [whole_lo, whole_hi) are seen whole by every row; there may be none. Where the mask says nothing of them
    # there is one loop for all tiles; and in float32, whose products without matrix units take nearly all time, and too many
    # registers where no branch stands between them and the softmax.
    PARTED: tl.constexpr = not (KEEP or DOCUMENTS) and q.dtype != tl.float32
    whole_lo = lo
    whole_hi = lo
    open_lo, open_hi = open_span(first, last, keys, window, CAUSAL, WINDOW, KEEP, DOCUMENTS)
    if PARTED:
        if WINDOW:
            whole_lo = tl.maximum(lo, tl.minimum(tl.cdiv(open_lo, BLOCK_N) * BLOCK_N, tl.cdiv(hi, BLOCK_N) * BLOCK_N))
        whole_hi = tl.maximum(whole_lo, tl.minimum(open_hi, hi) // BLOCK_N * BLOCK_N)

    m = tl.full([BLOCK_M], 1.0, tl.float32) * hidden
    found = tl.full([BLOCK_M], -1, tl.int32)
    PARTS: tl.constexpr = 1 if q.dtype == tl.float32 else 4
    total = tl.zeros([BLOCK_M, PARTS], tl.float32)
    moment = tl.zeros([BLOCK_M, PARTS], tl.float32)
    g = each(MASSES + DISTANCES, tl.zeros([BLOCK_M, PARTS], tl.float32))
    acc = tl.zeros([BLOCK_M, DV_PAD], tl.float32)
    if PARTED and WINDOW:
        m, found, total, moment, g, acc = section(
            m, found, total, moment, g, acc, lo, whole_lo, open_lo, open_hi, q, k_ptr, v_ptr, k_t, v_t, i, row, first, last,
            slope, bias_here, bias_i, bias_j, class_here, class_bias_here, document_i, keep_here, document_here,
            weight_here, weight_c, level_here, level_c, reach_ptr, queries, keys, window, c, gain, inner, hidden,
            D, D_PAD, DV, DV_PAD, CAUSAL, WINDOW, KEEP, DOCUMENTS, ALIBI, BIAS, CLASSES, SOFTCAP, ENTROPY, PEAK,
            MASSES, DISTANCES, CLIPPED, LEVEL, PRECISION, BLOCK_M, BLOCK_N, False,
        )  # fmt: skip
    if PARTED:
        m, found, total, moment, g, acc = section(
            m, found, total, moment, g, acc, whole_lo, whole_hi, open_lo, open_hi, q, k_ptr, v_ptr, k_t, v_t, i, row, first, last,
            slope, bias_here, bias_i, bias_j, class_here, class_bias_here, document_i, keep_here, document_here,
            weight_here, weight_c, level_here, level_c, reach_ptr, queries, keys, window, c, gain, inner, hidden,
            D, D_PAD, DV, DV_PAD, CAUSAL, WINDOW, KEEP, DOCUMENTS, ALIBI, BIAS, CLASSES, SOFTCAP, ENTROPY, PEAK,
            MASSES, DISTANCES, CLIPPED, LEVEL, PRECISION, BLOCK_M, BLOCK_N, True,
        )  # fmt: skip
    m, found, total, moment, g, acc = section(
        m, found, total, moment, g, acc, whole_hi, hi, open_lo, open_hi, q, k_ptr, v_ptr, k_t, v_t, i, row, first, last,
        slope, bias_here, bias_i, bias_j, class_here, class_bias_here, document_i, keep_here, document_here,
        weight_here, weight_c, level_here, level_c, reach_ptr, queries, keys, window, c, gain, inner, hidden,
        D, D_PAD, DV, DV_PAD, CAUSAL, WINDOW, KEEP, DOCUMENTS, ALIBI, BIAS, CLASSES, SOFTCAP, ENTROPY, PEAK,
        MASSES, DISTANCES, CLIPPED, LEVEL, PRECISION, BLOCK_M, BLOCK_N, False,
    )  # fmt: skip
    total = tl.sum(total, 1)
    moment = tl.sum(moment, 1)

    at = (batch * heads + h) * queries + row
    all_rows = tl.num_programs(0) // blocks * (group if PACKED else 1)
    all_rows = all_rows.to(tl.int64) * queries
    if SPLIT:
        at += tl.program_id(1) * all_rows
        factor = total
        value = moment
    else:
        sink = m
        if SINKS:
            sink = tl.load(sink_ptr + (at if ROW_SINKS else h), mask=valid, other=0.0).to(tl.float32)
        factor, log_whole, lse = closed(m, total, sink, nat, hidden, SINKS)
        acc = acc * factor[:, None]
        value = entropy(total, moment, factor, log_whole, nat)
        tl.store(lse_ptr + at, lse, mask=valid)
    if STATE:
        tl.store(shift_ptr + at, tl.where(total != total, total, m), mask=valid)
        tl.store(factor_ptr + at, factor, mask=valid)
    if ENTROPY:
        tl.store(entropy_ptr + at, value, mask=valid)
    if PEAK:
        tl.store(tile_ptr + at, found, mask=valid)
    linear_n = all_rows * (splits if SPLIT else 1)
    for n in tl.static_range(MASSES + DISTANCES):
        value = tl.sum(g[n], 1)
        tl.store(linear_ptr + n * linear_n + at, value if SPLIT else value * factor, mask=valid)
    column = tl.arange(0, DV_PAD)
    inside = valid[:, None] & (column < DV)[None, :]
    tl.store(out_ptr + at[:, None] * DV + column[None, :], acc.to(out_ptr.dtype.element_ty), mask=inside)
