"""P itself for chosen rows and a range of columns: what the lazy map reads out."""

from __future__ import annotations

import triton
import triton.language as tl

from interp_kernels.backends.triton.device.scores import LENGTHS, load_rows, rows_of_head, transformed, visible


@triton.jit(do_not_specialize=[*LENGTHS, "chosen_rows", "first_column", "columns"])
def cells_kernel(
    q_ptr, k_ptr, shift_ptr, factor_ptr, row_ptr, value_ptr, keep_ptr, document_ptr, alibi_ptr, bias_ptr,
    q_b, q_h, q_t, k_b, k_h, k_t, bias_b, bias_h, bias_i, bias_j, document_b,
    class_ptr, class_b, class_h, class_bias_ptr, class_bias_b, class_bias_h, class_bias_i,
    heads, group, queries, keys, offset, window, chosen_rows, first_column, columns, c, gain, inner, hidden,
    D: tl.constexpr, D_PAD: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, KEEP: tl.constexpr, DOCUMENTS: tl.constexpr,
    ALIBI: tl.constexpr, BIAS: tl.constexpr, CLASSES: tl.constexpr, SOFTCAP: tl.constexpr, NEGATIVE: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """value [B, Hq, chosen_rows, columns]: P of the rows whose indices stand at row_ptr, from first_column on."""
    wide = tl.cdiv(columns, BLOCK_N)
    high = tl.cdiv(chosen_rows, BLOCK_M)
    unit = tl.program_id(0) // (wide * high)
    place = tl.program_id(0) % (wide * high)
    n = place // wide * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = n < chosen_rows
    row = tl.load(row_ptr + n, mask=valid, other=0)
    column = place % wide * BLOCK_N + tl.arange(0, BLOCK_N)
    j = first_column + column
    inside = column < columns
    i, q, k_here, keep_here, document_here, document_i, slope, bias_here, class_here, class_bias_here = rows_of_head(
        unit, row, valid, offset, heads, group, keys, q_ptr, q_b, q_h, q_t, k_ptr, k_b, k_h,
        keep_ptr, document_ptr, document_b, alibi_ptr, bias_ptr, bias_b, bias_h,
        class_ptr, class_b, class_h, class_bias_ptr, class_bias_b, class_bias_h, class_bias_i,
        D, D_PAD, KEEP, DOCUMENTS, ALIBI, BIAS, CLASSES, NEGATIVE,
    )  # fmt: skip
    k = load_rows(k_here, k_t, j.to(tl.int64), inside, D, D_PAD)
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    s = transformed(
        s, i[:, None], j[None, :], row[:, None], slope[:, None], bias_here[:, None], bias_i, bias_j,
        class_here, class_bias_here[:, None], queries, keys, gain, inner, hidden, ALIBI, BIAS, CLASSES, SOFTCAP,
    )  # fmt: skip
    seen = visible(
        i[:, None], j[None, :], document_i[:, None], keep_here, document_here, keys, window,
        CAUSAL, WINDOW, KEEP, DOCUMENTS,
    ) & ~(s <= 0.5 * hidden)  # fmt: skip
    at = unit.to(tl.int64) * queries + row
    shift = tl.load(shift_ptr + at, mask=valid, other=0.0)
    factor = tl.load(factor_ptr + at, mask=valid, other=0.0)
    x = (s - shift[:, None]) * c
    # The log-sum-exp is rounded, but a probability may not exceed 1.
    x = tl.where(x > 0.0, 0.0, x)
    p = tl.where(seen, tl.exp2(x) * factor[:, None], 0.0)
    out = (unit.to(tl.int64) * chosen_rows + n)[:, None] * columns + column[None, :]
    tl.store(value_ptr + out, p, mask=valid[:, None] & inside[None, :])
