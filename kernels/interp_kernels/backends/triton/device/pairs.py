"""P of wanted pairs (i, i - d) after the pass, from the row's normaliser. O(T) an offset.

The pairs of a block of queries are the diagonal of a square tile. It is a matrix product as in the forward pass, and not a
sum of its own, so that scores round as they did in the normaliser: a probability near 1 owes its digits to that.
"""

from __future__ import annotations

import triton
import triton.language as tl

from interp_kernels.backends.triton.device.scores import LENGTHS, load_rows, rows_of_head, transformed, visible


@triton.jit(do_not_specialize=[*LENGTHS, "offsets"])
def pairs_kernel(
    q_ptr, k_ptr, shift_ptr, factor_ptr, offsets_ptr, value_ptr, exists_ptr,
    keep_ptr, document_ptr, alibi_ptr, bias_ptr,
    q_b, q_h, q_t, k_b, k_h, k_t, bias_b, bias_h, bias_i, bias_j, document_b,
    class_ptr, class_b, class_h, class_bias_ptr, class_bias_b, class_bias_h, class_bias_i,
    heads, group, queries, keys, offset, window, offsets, c, gain, inner, hidden,
    D: tl.constexpr, D_PAD: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, KEEP: tl.constexpr, DOCUMENTS: tl.constexpr,
    ALIBI: tl.constexpr, BIAS: tl.constexpr, CLASSES: tl.constexpr, SOFTCAP: tl.constexpr, NEGATIVE: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """value [B, Hq, Tq, offsets] and whether the pair exists and is visible, for the distances d at offsets_ptr."""
    blocks = tl.cdiv(queries, BLOCK_M)
    unit = tl.program_id(0) // blocks
    row = tl.program_id(0) % blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = row < queries
    i, q, k_here, keep_here, document_here, document_i, slope, bias_here, class_here, class_bias_here = rows_of_head(
        unit, row, valid, offset, heads, group, keys, q_ptr, q_b, q_h, q_t, k_ptr, k_b, k_h,
        keep_ptr, document_ptr, document_b, alibi_ptr, bias_ptr, bias_b, bias_h,
        class_ptr, class_b, class_h, class_bias_ptr, class_bias_b, class_bias_h, class_bias_i,
        D, D_PAD, KEEP, DOCUMENTS, ALIBI, BIAS, CLASSES, NEGATIVE,
    )  # fmt: skip
    at = unit.to(tl.int64) * queries + row
    shift = tl.load(shift_ptr + at, mask=valid, other=0.0)
    factor = tl.load(factor_ptr + at, mask=valid, other=0.0)
    for n in range(offsets):
        j = i - tl.load(offsets_ptr + n)
        inside = valid & (j >= 0) & (j < keys)
        k = load_rows(k_here, k_t, j.to(tl.int64), inside, D, D_PAD)
        square = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        s = tl.sum(tl.where(row[:, None] == row[None, :], square, 0.0), 1)
        s = transformed(
            s, i, j, row, slope, bias_here, bias_i, bias_j, class_here, class_bias_here, queries, keys, gain, inner, hidden,
            ALIBI, BIAS, CLASSES, SOFTCAP,
        )  # fmt: skip
        seen = visible(
            i, j, document_i, keep_here, document_here, keys, window, CAUSAL, WINDOW, KEEP, DOCUMENTS
        ) & ~(s <= 0.5 * hidden)  # fmt: skip
        x = (s - shift) * c
        # Scored again a key may exceed the maximum by rounding; a probability may not exceed 1.
        x = tl.where(x > 0.0, 0.0, x)
        value = tl.where(seen, tl.exp2(x) * factor, 0.0)
        tl.store(value_ptr + at * offsets + n, value, mask=valid)
        tl.store(exists_ptr + at * offsets + n, seen.to(tl.uint8), mask=valid)
