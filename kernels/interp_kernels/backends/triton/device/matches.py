"""Label matches after the pass: of a row, the keys of its label alone are scored again.

Queries and keys are gone through in the order of their labels, so that the keys of a label stand side by side: a program
does a block of queries over the keys of their labels, which on a text are few. All in all that is one tile of queries for
each key and, for each label, its queries times its keys, instead of every query times every key.
"""

from __future__ import annotations

import triton
import triton.language as tl

from interp_kernels.backends.triton.device.scores import LENGTHS, load_rows, rows_of_head, transformed, visible


@triton.jit(do_not_specialize=[*LENGTHS, "splits"])
def matches_kernel(
    q_ptr, k_ptr, shift_ptr, factor_ptr, query_ptr, from_ptr, to_ptr, key_ptr, value_ptr,
    keep_ptr, document_ptr, alibi_ptr, bias_ptr,
    q_b, q_h, q_t, k_b, k_h, k_t, bias_b, bias_h, bias_i, bias_j, document_b,
    class_ptr, class_b, class_h, class_bias_ptr, class_bias_b, class_bias_h, class_bias_i,
    heads, group, queries, keys, offset, window, splits, c, gain, inner, hidden,
    D: tl.constexpr, D_PAD: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, KEEP: tl.constexpr, DOCUMENTS: tl.constexpr,
    ALIBI: tl.constexpr, BIAS: tl.constexpr, CLASSES: tl.constexpr, SOFTCAP: tl.constexpr, NEGATIVE: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """value [splits, B, Hq, Tq]: sum_j P_ij over the keys of the query's label; of those, one of ``splits`` ranges.

    query, from, to [B, Tq]: the n-th query in the order of labels, and which keys of that order, [from, to), it is to
    count; key [B, Tk]: the n-th key.
    """
    blocks = tl.cdiv(queries, BLOCK_M)
    units = tl.num_programs(0) // blocks
    unit = tl.program_id(0) // blocks
    batch = (unit // heads).to(tl.int64)
    n = tl.program_id(0) % blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = n < queries
    ordered = batch * queries + n
    row = tl.load(query_ptr + ordered, mask=valid, other=0)
    begin = tl.load(from_ptr + ordered, mask=valid, other=0)
    end = tl.load(to_ptr + ordered, mask=valid, other=0)
    i, q, k_here, keep_here, document_here, document_i, slope, bias_here, class_here, class_bias_here = rows_of_head(
        unit, row, valid, offset, heads, group, keys, q_ptr, q_b, q_h, q_t, k_ptr, k_b, k_h,
        keep_ptr, document_ptr, document_b, alibi_ptr, bias_ptr, bias_b, bias_h,
        class_ptr, class_b, class_h, class_bias_ptr, class_bias_b, class_bias_h, class_bias_i,
        D, D_PAD, KEEP, DOCUMENTS, ALIBI, BIAS, CLASSES, NEGATIVE,
    )  # fmt: skip
    at = unit.to(tl.int64) * queries + row
    shift = tl.load(shift_ptr + at, mask=valid, other=0.0)
    matches = begin < end
    lo = tl.min(tl.where(matches, begin, keys), 0) // BLOCK_N * BLOCK_N
    hi = tl.max(tl.where(matches, end, 0), 0)
    share = tl.cdiv(tl.cdiv(tl.maximum(hi - lo, 0), BLOCK_N), splits) * BLOCK_N
    lo += share * tl.program_id(1)
    hi = tl.minimum(hi, lo + share)
    key_here = key_ptr + batch * keys
    mass = tl.zeros([BLOCK_M], tl.float32)
    for start in tl.range(lo, hi, BLOCK_N):
        place = start + tl.arange(0, BLOCK_N)
        inside = place < hi
        j = tl.load(key_here + place, mask=inside, other=0)
        k = load_rows(k_here, k_t, j.to(tl.int64), inside, D, D_PAD)
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        s = transformed(
            s, i[:, None], j[None, :], row[:, None], slope[:, None], bias_here[:, None], bias_i, bias_j,
            class_here, class_bias_here[:, None], queries, keys, gain, inner, hidden, ALIBI, BIAS, CLASSES, SOFTCAP,
        )  # fmt: skip
        seen = visible(
            i[:, None], j[None, :], document_i[:, None], keep_here, document_here, keys, window,
            CAUSAL, WINDOW, KEEP, DOCUMENTS,
        )  # fmt: skip
        seen = seen & (place[None, :] >= begin[:, None]) & (place[None, :] < end[:, None]) & ~(s <= 0.5 * hidden)
        x = (s - shift[:, None]) * c
        # Scored again a maximum may come out larger, and its weight may not exceed 1.
        x = tl.where(x > 0.0, 0.0, x)
        mass += tl.sum(tl.where(seen, tl.exp2(x), 0.0), 1)
    factor = tl.load(factor_ptr + at, mask=valid, other=0.0)
    out = tl.program_id(1).to(tl.int64) * units * queries + at
    tl.store(value_ptr + out, mass * factor, mask=valid)
