"""Means and maxima of P over squares of the map, with every row's normaliser known."""

from __future__ import annotations

import triton
import triton.language as tl

from interp_kernels.backends.triton.device.scores import LENGTHS, head_inputs, key_span, load_rows, transformed, visible


@triton.jit
def larger(a, b):
    """The larger of two, NaN if one is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def greatest(x, AXIS: tl.constexpr):
    """The maximum along an axis, NaN if one element is."""
    return tl.reduce(x, AXIS, larger)


@triton.jit(do_not_specialize=[*LENGTHS, "size"])
def squares_kernel(
    q_ptr, k_ptr, shift_ptr, factor_ptr, chosen_ptr, value_ptr, keep_ptr, document_ptr, alibi_ptr, bias_ptr,
    q_b, q_h, q_t, k_b, k_h, k_t, bias_b, bias_h, bias_i, bias_j, document_b,
    class_ptr, class_b, class_h, class_bias_ptr, class_bias_b, class_bias_h, class_bias_i,
    heads, group, queries, keys, offset, window, size, c, gain, inner, hidden,
    D: tl.constexpr, D_PAD: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, KEEP: tl.constexpr, DOCUMENTS: tl.constexpr,
    ALIBI: tl.constexpr, BIAS: tl.constexpr, CLASSES: tl.constexpr, SOFTCAP: tl.constexpr, NEGATIVE: tl.constexpr,
    CHOSEN: tl.constexpr, MEAN: tl.constexpr, PIECE: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """value [B, Hq, R, C] over squares of ``size`` x ``size`` cells, over the queries with chosen [B, Tq] nonzero.

    PIECE > 0 is the size itself where it divides the tile: one program then does a tile of whole squares. PIECE 0: one
    program does one square in tiles of its own.
    """
    across = tl.cdiv(keys, size)
    down = tl.cdiv(queries, size)
    if PIECE > 0:
        wide = tl.cdiv(keys, BLOCK_N)
        high = tl.cdiv(queries, BLOCK_M)
        row_end = BLOCK_M
        column_end = BLOCK_N
    else:
        wide = across
        high = down
        row_end = size
        column_end = size
    unit = tl.program_id(0) // (wide * high)
    place = tl.program_id(0) % (wide * high)
    top = place // wide * row_end
    left = place % wide * column_end
    row_end = tl.minimum(top + row_end, queries)
    column_end = tl.minimum(left + column_end, keys)
    batch = (unit // heads).to(tl.int64)
    head = unit % heads
    kv = (head // group).to(tl.int64)
    q_here = q_ptr + batch * q_b + head.to(tl.int64) * q_h
    k_here = k_ptr + batch * k_b + kv * k_h
    rows_before = unit.to(tl.int64) * queries
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    count = tl.zeros([BLOCK_M, BLOCK_N], tl.int32)
    for start_i in range(top, row_end, BLOCK_M):
        row = start_i + tl.arange(0, BLOCK_M)
        valid = row < row_end
        i = row + offset
        q = load_rows(q_here, q_t, row.to(tl.int64), valid, D, D_PAD)
        if NEGATIVE:
            q = -q
        keep_here, document_here, document_i, slope, bias_here, class_here, class_bias_here = head_inputs(
            batch, head, head + 0 * row, row, i, valid, keep_ptr, document_ptr, document_b, alibi_ptr,
            bias_ptr, bias_b, bias_h, class_ptr, class_b, class_h, class_bias_ptr, class_bias_b, class_bias_h, class_bias_i,
            keys, KEEP, DOCUMENTS, ALIBI, BIAS, CLASSES,
        )  # fmt: skip
        shift = tl.load(shift_ptr + rows_before + row, mask=valid, other=0.0)
        factor = tl.load(factor_ptr + rows_before + row, mask=valid, other=0.0)
        counts = valid
        if CHOSEN:
            counts = counts & (tl.load(chosen_ptr + batch * queries + row, mask=valid, other=0) != 0)
        first = start_i + offset
        lo, hi = key_span(first, tl.minimum(start_i + BLOCK_M, row_end) - 1 + offset, keys, window, CAUSAL, WINDOW)
        end_j = tl.where((left < hi) & (lo < column_end), column_end, left)
        for start_j in range(left, end_j, BLOCK_N):
            j = start_j + tl.arange(0, BLOCK_N)
            k = load_rows(k_here, k_t, j.to(tl.int64), j < column_end, D, D_PAD)
            s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
            s = transformed(
                s, i[:, None], j[None, :], row[:, None], slope[:, None], bias_here[:, None], bias_i, bias_j,
                class_here, class_bias_here[:, None], queries, keys, gain, inner, hidden, ALIBI, BIAS, CLASSES, SOFTCAP,
            )  # fmt: skip
            seen = visible(
                i[:, None], j[None, :], document_i[:, None], keep_here, document_here, keys, window,
                CAUSAL, WINDOW, KEEP, DOCUMENTS,
            )  # fmt: skip
            seen = seen & counts[:, None] & (j < column_end)[None, :] & ~(s <= 0.5 * hidden)
            x = (s - shift[:, None]) * c
            # Scored again a key may exceed the maximum by rounding; a probability may not exceed 1.
            x = tl.where(x > 0.0, 0.0, x)
            p = tl.where(seen, tl.exp2(x) * factor[:, None], 0.0)
            if MEAN:
                total += p
                count += seen.to(tl.int32)
            else:
                # Not a plain maximum, which would lose NaN.
                total = tl.maximum(total, p, propagate_nan=tl.PropagateNan.ALL)
    squares_before = unit.to(tl.int64) * down * across
    if PIECE > 0:
        cells = tl.reshape(total, [BLOCK_M // PIECE, PIECE, BLOCK_N // PIECE, PIECE])
        r = top // size + tl.arange(0, BLOCK_M // PIECE)
        col = left // size + tl.arange(0, BLOCK_N // PIECE)
        if MEAN:
            counted = tl.sum(tl.sum(tl.reshape(count, [BLOCK_M // PIECE, PIECE, BLOCK_N // PIECE, PIECE]), 3), 1)
            value = tl.sum(tl.sum(cells, 3), 1) / tl.maximum(counted, 1).to(tl.float32)
        else:
            value = greatest(greatest(cells, 3), 1)
        at = squares_before + r[:, None] * across + col[None, :]
        tl.store(value_ptr + at, value, mask=(r < down)[:, None] & (col < across)[None, :])
    else:
        if MEAN:
            counted = tl.sum(tl.sum(count, 1), 0)
            value = tl.sum(tl.sum(total, 1), 0) / tl.maximum(counted, 1).to(tl.float32)
        else:
            value = greatest(greatest(total, 1), 0)
        tl.store(value_ptr + squares_before + place, value)
