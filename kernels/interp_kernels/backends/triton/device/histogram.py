"""Mass by distance: for each bin the keys at its distances, before and behind, are scored with the row's normaliser known."""

from __future__ import annotations

import triton
import triton.language as tl

from interp_kernels.backends.triton.device.scores import LENGTHS, key_span, open_span, rows_of_head, tile_scores


@triton.jit(do_not_specialize=[*LENGTHS, "bins"])
def histogram_kernel(
    q_ptr, k_ptr, shift_ptr, factor_ptr, edge_ptr, value_ptr, keep_ptr, document_ptr, alibi_ptr, bias_ptr,
    q_b, q_h, q_t, k_b, k_h, k_t, bias_b, bias_h, bias_i, bias_j, document_b,
    class_ptr, class_b, class_h, class_bias_ptr, class_bias_b, class_bias_h, class_bias_i,
    heads, group, queries, keys, offset, window, bins, c, gain, inner, hidden,
    D: tl.constexpr, D_PAD: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, KEEP: tl.constexpr, DOCUMENTS: tl.constexpr,
    ALIBI: tl.constexpr, BIAS: tl.constexpr, CLASSES: tl.constexpr, SOFTCAP: tl.constexpr, NEGATIVE: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """value [B, Hq, Tq, bins]: sum_j P_ij [e_n <= |i - j| < e_(n+1)] for the edges e, int32 [bins + 1]."""
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
    at = unit.to(tl.int64) * queries + row
    shift = tl.load(shift_ptr + at, mask=valid, other=0.0)
    factor = tl.load(factor_ptr + at, mask=valid, other=0.0)
    span_lo, span_hi = key_span(first, last, keys, window, CAUSAL, WINDOW)
    open_lo, open_hi = open_span(first, last, keys, window, CAUSAL, WINDOW, KEEP, DOCUMENTS)
    for n in range(bins):
        near = tl.load(edge_ptr + n)
        far = tl.load(edge_ptr + n + 1)
        mass = tl.zeros([BLOCK_M], tl.float32)
        for side in range(1 if CAUSAL else 2):
            # The queries' own keys, at distance 0, count as keys before them.
            if side == 0:
                lo = first - far + 1
                hi = last - near + 1
            else:
                lo = first + tl.maximum(near, 1)
                hi = last + far
            lo = tl.maximum(lo, span_lo) // BLOCK_N * BLOCK_N
            hi = tl.minimum(hi, span_hi)
            for start in range(lo, hi, BLOCK_N):
                s = tile_scores(
                    q, k_here, k_t, start, i, row, slope, bias_here, bias_i, bias_j, class_here, class_bias_here,
                    document_i, keep_here, document_here, queries, keys, window, gain, inner, hidden, open_lo, open_hi,
                    D, D_PAD, CAUSAL, WINDOW, KEEP, DOCUMENTS, ALIBI, BIAS, CLASSES, SOFTCAP, PRECISION, BLOCK_N,
                )  # fmt: skip
                x = (s - shift[:, None]) * c
                # Scored again a key may exceed the maximum by rounding; a probability may not exceed 1.
                p = tl.exp2(tl.where(x > 0.0, 0.0, x))
                apart = i[:, None] - (start + tl.arange(0, BLOCK_N))[None, :]
                apart = tl.where(side == 0, apart, -apart)
                inside = (apart >= tl.maximum(near, side)) & (apart < far)
                mass += tl.sum(tl.where(inside, p, 0.0), 1)
        tl.store(value_ptr + at * bins + n, mass * factor, mask=valid)
