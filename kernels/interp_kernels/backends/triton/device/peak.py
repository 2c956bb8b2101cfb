"""The key of each row's largest score, from the key tile in which the forward pass saw the maximum rise last.

To carry an index through the forward pass would cost two instructions a score. Instead the tiles that hold a maximum of some
row of a block are scored once more: few of them, since the rows of a block peak at the same sinks and at their neighbours.
"""

from __future__ import annotations

import triton
import triton.language as tl

from interp_kernels.backends.triton.device.scores import LENGTHS, rows_of_head, tile_scores


@triton.jit(do_not_specialize=LENGTHS)
def peak_kernel(
    q_ptr, k_ptr, tile_ptr, index_ptr, keep_ptr, document_ptr, alibi_ptr, bias_ptr,
    q_b, q_h, q_t, k_b, k_h, k_t, bias_b, bias_h, bias_i, bias_j, document_b,
    class_ptr, class_b, class_h, class_bias_ptr, class_bias_b, class_bias_h, class_bias_i,
    heads, group, queries, keys, offset, window, c, gain, inner, hidden,
    D: tl.constexpr, D_PAD: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, KEEP: tl.constexpr, DOCUMENTS: tl.constexpr,
    ALIBI: tl.constexpr, BIAS: tl.constexpr, CLASSES: tl.constexpr, SOFTCAP: tl.constexpr, NEGATIVE: tl.constexpr,
    PRECISION: tl.constexpr, TILE: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """index [B, Hq, Tq], int64: the lowest key that reaches the largest score of tile [B, Hq, Tq] (its first key); -1 where
    that is -1. TILE: the keys of a tile."""
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
    tile = tl.load(tile_ptr + at, mask=valid, other=-1)
    found = tl.full([BLOCK_M], -1, tl.int32)
    start = tl.max(tile, 0)
    while start >= 0:
        s = tile_scores(
            q, k_here, k_t, start, i, row, slope, bias_here, bias_i, bias_j, class_here, class_bias_here,
            document_i, keep_here, document_here, queries, keys, window, gain, inner, hidden, 0, 0,
            D, D_PAD, CAUSAL, WINDOW, KEEP, DOCUMENTS, ALIBI, BIAS, CLASSES, SOFTCAP, PRECISION, TILE,
        )  # fmt: skip
        lane = tl.arange(0, TILE)
        first = tl.min(tl.where(s == tl.max(s, 1)[:, None], lane[None, :], TILE), 1)
        # A row whose scores are all NaN reaches nothing: its first key stands for it.
        found = tl.where(tile == start, start + tl.where(first == TILE, 0, first), found)
        tile = tl.where(tile == start, -1, tile)
        start = tl.max(tile, 0)
    tl.store(index_ptr + at, found.to(tl.int64), mask=valid)
