"""P x in float32 for the lazy map, with every row's normaliser known."""

from __future__ import annotations

import triton
import triton.language as tl

from interp_kernels.backends.triton.device.scores import LENGTHS, key_span, open_span, rows_of_head, tile_scores


@triton.jit(do_not_specialize=[*LENGTHS, "columns"])
def product_kernel(
    q_ptr, k_ptr, shift_ptr, factor_ptr, x_ptr, value_ptr, keep_ptr, document_ptr, alibi_ptr, bias_ptr,
    q_b, q_h, q_t, k_b, k_h, k_t, x_b, x_h, x_t, bias_b, bias_h, bias_i, bias_j, document_b,
    class_ptr, class_b, class_h, class_bias_ptr, class_bias_b, class_bias_h, class_bias_i,
    heads, group, queries, keys, offset, window, columns, c, gain, inner, hidden,
    D: tl.constexpr, D_PAD: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, KEEP: tl.constexpr, DOCUMENTS: tl.constexpr,
    ALIBI: tl.constexpr, BIAS: tl.constexpr, CLASSES: tl.constexpr, SOFTCAP: tl.constexpr, NEGATIVE: tl.constexpr,
    PRECISION: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """value [B, Hq, Tq, columns] = P x for x [B, Hq, Tk, columns] by strides; a program does WIDE columns, at least 16 or 1."""
    blocks = tl.cdiv(queries, BLOCK_M)
    unit = tl.program_id(0) // blocks
    block = blocks - 1 - tl.program_id(0) % blocks
    batch = (unit // heads).to(tl.int64)
    head = unit % heads
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
    column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    x_here = x_ptr + batch * x_b + head.to(tl.int64) * x_h
    lo, hi = key_span(first, last, keys, window, CAUSAL, WINDOW)
    open_lo, open_hi = open_span(first, last, keys, window, CAUSAL, WINDOW, KEEP, DOCUMENTS)
    lo = lo // BLOCK_N * BLOCK_N
    acc = tl.zeros([BLOCK_M, WIDE], tl.float32)
    for start in tl.range(lo, hi, BLOCK_N):
        s = tile_scores(
            q, k_here, k_t, start, i, row, slope, bias_here, bias_i, bias_j, class_here, class_bias_here,
            document_i, keep_here, document_here, queries, keys, window, gain, inner, hidden, open_lo, open_hi,
            D, D_PAD, CAUSAL, WINDOW, KEEP, DOCUMENTS, ALIBI, BIAS, CLASSES, SOFTCAP, PRECISION, BLOCK_N,
        )  # fmt: skip
        z = (s - shift[:, None]) * c
        p = tl.exp2(tl.where(z > 0.0, 0.0, z))
        j = start + tl.arange(0, BLOCK_N)
        mask = (j < keys)[:, None] & (column < columns)[None, :]
        x = tl.load(x_here + j.to(tl.int64)[:, None] * x_t + column[None, :], mask=mask, other=0.0)
        if WIDE == 1:
            acc += tl.sum(p[:, :, None] * x[None, :, :], 1)
        else:
            acc = tl.dot(p, x, acc, input_precision="ieee")
    out = at[:, None] * columns + column[None, :]
    tl.store(value_ptr + out, acc * factor[:, None], mask=valid[:, None] & (column < columns)[None, :])
