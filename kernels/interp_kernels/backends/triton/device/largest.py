"""The k largest scores of every row with their keys, in one pass over the scores with a running list a row.

A tile whose maxima lie below every row's k-th best is passed over. Keys come in rising order and only a score above the k-th
takes a place, so ties stay with the lower key. The lists are handed over unsorted.
"""

from __future__ import annotations

import triton
import triton.language as tl

from interp_kernels.backends.triton.device.scores import LENGTHS, key_span, open_span, rows_of_head, tile_scores


@triton.jit(do_not_specialize=LENGTHS)
def largest_kernel(
    q_ptr, k_ptr, score_ptr, index_ptr, keep_ptr, document_ptr, alibi_ptr, bias_ptr,
    q_b, q_h, q_t, k_b, k_h, k_t, bias_b, bias_h, bias_i, bias_j, document_b,
    class_ptr, class_b, class_h, class_bias_ptr, class_bias_b, class_bias_h, class_bias_i,
    heads, group, queries, keys, offset, window, c, gain, inner, hidden,
    D: tl.constexpr, D_PAD: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, KEEP: tl.constexpr, DOCUMENTS: tl.constexpr,
    ALIBI: tl.constexpr, BIAS: tl.constexpr, CLASSES: tl.constexpr, SOFTCAP: tl.constexpr, NEGATIVE: tl.constexpr,
    TAKEN: tl.constexpr, PLACES: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """score, index [B, Hq, Tq, TAKEN]: ``hidden`` and -1 in places that no visible key takes. PLACES: TAKEN rounded up to a
    power of two."""
    blocks = tl.cdiv(queries, BLOCK_M)
    unit = tl.program_id(0) // blocks
    block = blocks - 1 - tl.program_id(0) % blocks
    row = block * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = row < queries
    first = offset + block * BLOCK_M
    last = offset + tl.minimum(block * BLOCK_M + BLOCK_M, queries) - 1
    i, q, k_here, keep_here, document_here, document_i, slope, bias_here, class_here, class_bias_here = rows_of_head(
        unit, row, valid, offset, heads, group, keys, q_ptr, q_b, q_h, q_t, k_ptr, k_b, k_h,
        keep_ptr, document_ptr, document_b, alibi_ptr, bias_ptr, bias_b, bias_h,
        class_ptr, class_b, class_h, class_bias_ptr, class_bias_b, class_bias_h, class_bias_i,
        D, D_PAD, KEEP, DOCUMENTS, ALIBI, BIAS, CLASSES, NEGATIVE,
    )  # fmt: skip
    lo, hi = key_span(first, last, keys, window, CAUSAL, WINDOW)
    open_lo, open_hi = open_span(first, last, keys, window, CAUSAL, WINDOW, KEEP, DOCUMENTS)
    lo = lo // BLOCK_N * BLOCK_N
    lane = tl.arange(0, BLOCK_N)
    place = tl.arange(0, PLACES)
    # Places beyond the k-th hold infinity, so that they are never the least.
    best = tl.where(place < TAKEN, hidden, float("inf"))[None, :] + tl.zeros([BLOCK_M, PLACES], tl.float32)
    index = tl.full([BLOCK_M, PLACES], -1, tl.int32)
    least = tl.zeros([BLOCK_M], tl.float32) + hidden
    for start in tl.range(lo, hi, BLOCK_N):
        s = tile_scores(
            q, k_here, k_t, start, i, row, slope, bias_here, bias_i, bias_j, class_here, class_bias_here,
            document_i, keep_here, document_here, queries, keys, window, gain, inner, hidden, open_lo, open_hi,
            D, D_PAD, CAUSAL, WINDOW, KEEP, DOCUMENTS, ALIBI, BIAS, CLASSES, SOFTCAP, PRECISION, BLOCK_N,
        )  # fmt: skip
        top = tl.max(s, 1)
        while tl.max((top > least).to(tl.int32), 0) > 0:
            taken = top > least
            column = tl.min(tl.where(s == top[:, None], lane[None, :], BLOCK_N), 1)
            # Of the places with the least score the one with the highest key, or the last empty one, gives way.
            rank = tl.where(best == least[:, None], (index + 1) * PLACES + place[None, :], -1)
            gives_way = (rank == tl.max(rank, 1)[:, None]) & taken[:, None]
            best = tl.where(gives_way, top[:, None], best)
            index = tl.where(gives_way, (start + column)[:, None], index)
            s = tl.where((lane[None, :] == column[:, None]) & taken[:, None], hidden, s)
            least = tl.min(best, 1)
            top = tl.max(s, 1)
    at = (unit.to(tl.int64) * queries + row)[:, None] * TAKEN + place[None, :]
    mask = valid[:, None] & (place < TAKEN)[None, :]
    tl.store(score_ptr + at, best, mask=mask)
    tl.store(index_ptr + at, index, mask=mask)
