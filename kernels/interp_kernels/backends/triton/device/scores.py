"""Device functions that every kernel shares: a tile of scores, who sees whom in it, and which tiles need a look at all.

Scores are held in units in which the base-2 logit is s c: plain scores are the dot products themselves, and c is
scale log2 e; with a soft cap they are the tanh, and c is softcap log2 e; with ALiBi or a bias they are logits in nats, and c
is log2 e. c > 0 always: a negative scale negates q. So the scale costs one multiplication of s - max, which is exactly 0 at
the maximum, since a difference is never fused with a product that it is taken of.

Index tensors i, j and row may be of any shapes that broadcast: [M, 1] and [1, N] for a tile, [N] twice for single pairs.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
HIDING = tl.constexpr(-4.2535295865117308e37)
"""A logit at or below it is hidden by its bias: -2^125, as in ``interp_kernels.tiles``."""


LENGTHS = ["heads", "group", "queries", "keys", "offset", "window", "document_b"]
LENGTHS += ["class_b", "class_h", "class_bias_b", "class_bias_h", "class_bias_i"]
"""Arguments of every kernel that scores, which change from call to call: Triton shall make no special cases of them."""


@triton.jit
def load_rows(ptr, stride, index, valid, WIDTH: tl.constexpr, PADDED: tl.constexpr, ALL: tl.constexpr = False):
    """Rows ``index`` [R] of a matrix, [R, PADDED]; 0 where the row is not valid and beyond WIDTH. ALL: they all are valid."""
    column = tl.arange(0, PADDED)
    place = ptr + index[:, None] * stride + column[None, :]
    if ALL and WIDTH == PADDED:
        x = tl.load(place)
    elif ALL:
        x = tl.load(place, mask=(column < WIDTH)[None, :], other=0.0)
    elif WIDTH == PADDED:
        x = tl.load(place, mask=valid[:, None], other=0.0)
    else:
        x = tl.load(place, mask=valid[:, None] & (column < WIDTH)[None, :], other=0.0)
    return x


@triton.jit
def tanh(x):
    """tanh in float32 to 2 ulp: the polynomial of Cephes' tanhf near 0, else 1 - 2 / (e^2x + 1)."""
    z = x * x
    near = -5.70498872745e-3
    near = near * z + 2.06390887954e-2
    near = near * z - 5.37397155531e-2
    near = near * z + 1.33314422036e-1
    near = near * z - 3.33332819422e-1
    near = near * z * x + x
    far = 1.0 - 2.0 / (tl.exp2(x * (2.0 * LOG2E)) + 1.0)
    return tl.where(tl.abs(x) < 0.625, near, far)


@triton.jit
def transformed(
    s, i, j, row, slope, bias_ptr, bias_i, bias_j, class_here, class_bias_here, queries, keys, gain, inner, hidden,
    ALIBI: tl.constexpr, BIAS: tl.constexpr, CLASSES: tl.constexpr, SOFTCAP: tl.constexpr,
):  # fmt: skip
    """Dot products q_i . k_j to scores. slope: that of the head; bias_ptr: at its first entry; class_here: at the class of
    the first key, the same for all rows; class_bias_here: at the row's first value.

    gain: nats a unit of the plain or capped score, for what ALiBi and biases are added to.
    """
    if SOFTCAP:
        s = tanh(s * inner)
    if ALIBI or BIAS or CLASSES:
        s = s * gain
    if ALIBI:
        s = s - slope * tl.abs(i - j).to(tl.float32)
    if BIAS:
        inside = (row < queries) & (j >= 0) & (j < keys)
        added = tl.load(bias_ptr + row.to(tl.int64) * bias_i + j.to(tl.int64) * bias_j, mask=inside, other=0.0)
        s = s + added.to(tl.float32)
    if CLASSES:
        inside = (j >= 0) & (j < keys)
        column = tl.load(class_here + j, mask=inside, other=0)
        added = tl.load(class_bias_here + column, mask=(row < queries) & inside, other=0.0)
        s = s + added.to(tl.float32)
    if BIAS or CLASSES:
        # Not a maximum, which would turn NaN into a hidden key.
        s = tl.where(s <= HIDING, hidden, s)
    return s


@triton.jit
def visible(
    i, j, document_i, keep_ptr, document_ptr, keys, window,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, KEEP: tl.constexpr, DOCUMENTS: tl.constexpr,
):  # fmt: skip
    """m_ij but for biases. keep_ptr, document_ptr: at the sequence's first key; document_i: the queries' documents."""
    inside = (j >= 0) & (j < keys)
    seen = inside
    if CAUSAL:
        seen = seen & (j <= i)
    if WINDOW:
        seen = seen & (i - j < window)
        if not CAUSAL:
            seen = seen & (j - i < window)
    if KEEP:
        seen = seen & (tl.load(keep_ptr + j, mask=inside, other=0) != 0)
    if DOCUMENTS:
        seen = seen & (tl.load(document_ptr + j, mask=inside, other=-1) == document_i)
    return seen


@triton.jit
def open_scores(
    q, k_here, k_t, start, i, row, slope, bias_here, bias_i, bias_j, class_here, class_bias_here, queries, keys,
    gain, inner, hidden, D: tl.constexpr, D_PAD: tl.constexpr, ALIBI: tl.constexpr, BIAS: tl.constexpr,
    CLASSES: tl.constexpr, SOFTCAP: tl.constexpr, PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, ALL: tl.constexpr,
):  # fmt: skip
    """Scores of the queries q [M, D_PAD] and the keys from ``start``, [M, BLOCK_N], without a look at the mask.

    k_here, class_here: at the sequence's (and head's) first key; slope, bias_here, class_bias_here: [M], see
    ``head_inputs``. ALL: there are BLOCK_N keys from ``start`` on.
    """
    lane = tl.arange(0, BLOCK_N)
    j = start + lane
    k = load_rows(k_here + tl.cast(start, tl.int64) * k_t, k_t, lane, j < keys, D, D_PAD, ALL)
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    return transformed(
        s, i[:, None], j[None, :], row[:, None], slope[:, None], bias_here[:, None], bias_i, bias_j,
        class_here, class_bias_here[:, None], queries, keys, gain, inner, hidden, ALIBI, BIAS, CLASSES, SOFTCAP,
    )  # fmt: skip


@triton.jit
def masked(
    s, start, i, document_i, keep_here, document_here, keys, window, hidden, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    KEEP: tl.constexpr, DOCUMENTS: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Scores of the keys from ``start``, ``hidden`` where a key is hidden. keep_here, document_here: at the sequence's first
    key; document_i: the queries' documents."""
    j = start + tl.arange(0, BLOCK_N)
    seen = visible(
        i[:, None], j[None, :], document_i[:, None], keep_here, document_here, keys, window,
        CAUSAL, WINDOW, KEEP, DOCUMENTS,
    )  # fmt: skip
    return tl.where(seen, s, hidden)


@triton.jit
def tile_scores(
    q, k_here, k_t, start, i, row, slope, bias_here, bias_i, bias_j, class_here, class_bias_here,
    document_i, keep_here, document_here, queries, keys, window, gain, inner, hidden, open_lo, open_hi,
    D: tl.constexpr, D_PAD: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, KEEP: tl.constexpr,
    DOCUMENTS: tl.constexpr, ALIBI: tl.constexpr, BIAS: tl.constexpr, CLASSES: tl.constexpr, SOFTCAP: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The same, ``masked``. Keys of [open_lo, open_hi) are known to be seen by all: a tile of these takes no mask."""
    s = open_scores(
        q, k_here, k_t, start, i, row, slope, bias_here, bias_i, bias_j, class_here, class_bias_here, queries, keys,
        gain, inner, hidden, D, D_PAD, ALIBI, BIAS, CLASSES, SOFTCAP, PRECISION, BLOCK_N, False,
    )  # fmt: skip
    if (start < open_lo) | (start + BLOCK_N > open_hi):
        s = masked(
            s, start, i, document_i, keep_here, document_here, keys, window, hidden,
            CAUSAL, WINDOW, KEEP, DOCUMENTS, BLOCK_N,
        )  # fmt: skip
    return s


@triton.jit
def head_inputs(
    batch, head, h, row, i, valid, keep_ptr, document_ptr, document_b, alibi_ptr, bias_ptr, bias_b, bias_h,
    class_ptr, class_b, class_h, class_bias_ptr, class_bias_b, class_bias_h, class_bias_i, keys,
    KEEP: tl.constexpr, DOCUMENTS: tl.constexpr, ALIBI: tl.constexpr, BIAS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """keep, documents and the classes of ``head`` at the sequence's first key; for queries ``row`` at positions i of the
    heads h, all [M]: their document, their slope, where their head's bias begins, and where their own values by class do.
    What the call has not is filled with i."""
    keep_here, document_here, document_i, slope, bias_here, class_here, class_bias_here = i, i, i, i, i, i, i
    if KEEP:
        keep_here = keep_ptr + batch * keys
    if DOCUMENTS:
        document_here = document_ptr + batch * document_b
        document_i = tl.load(document_here + i, mask=valid, other=-2)
    if ALIBI:
        slope = tl.load(alibi_ptr + h, mask=valid, other=0.0).to(tl.float32)
    if BIAS:
        bias_here = bias_ptr + batch * bias_b + h.to(tl.int64) * bias_h
    if CLASSES:
        class_here = class_ptr + batch * class_b + head.to(tl.int64) * class_h
        class_bias_here = class_bias_ptr + batch * class_bias_b + h.to(tl.int64) * class_bias_h
        class_bias_here += row.to(tl.int64) * class_bias_i
    return keep_here, document_here, document_i, slope, bias_here, class_here, class_bias_here


@triton.jit
def rows_of_head(
    unit, row, valid, offset, heads, group, keys, q_ptr, q_b, q_h, q_t, k_ptr, k_b, k_h,
    keep_ptr, document_ptr, document_b, alibi_ptr, bias_ptr, bias_b, bias_h,
    class_ptr, class_b, class_h, class_bias_ptr, class_bias_b, class_bias_h, class_bias_i,
    D: tl.constexpr, D_PAD: tl.constexpr, KEEP: tl.constexpr, DOCUMENTS: tl.constexpr, ALIBI: tl.constexpr,
    BIAS: tl.constexpr, CLASSES: tl.constexpr, NEGATIVE: tl.constexpr,
):  # fmt: skip
    """What a block of rows of one head works on; unit = sequence x heads + head, row [M] the query indices.

    Positions [M]; q [M, D_PAD], negated for a negative scale; where the head's keys begin; and ``head_inputs``.
    """
    batch = (unit // heads).to(tl.int64)
    head = unit % heads
    kv = (head // group).to(tl.int64)
    i = row + offset
    q = load_rows(q_ptr + batch * q_b + head.to(tl.int64) * q_h, q_t, row.to(tl.int64), valid, D, D_PAD)
    if NEGATIVE:
        q = -q
    k_here = k_ptr + batch * k_b + kv * k_h
    keep_here, document_here, document_i, slope, bias_here, class_here, class_bias_here = head_inputs(
        batch, head, head + 0 * row, row, i, valid, keep_ptr, document_ptr, document_b, alibi_ptr, bias_ptr, bias_b, bias_h,
        class_ptr, class_b, class_h, class_bias_ptr, class_bias_b, class_bias_h, class_bias_i, keys,
        KEEP, DOCUMENTS, ALIBI, BIAS, CLASSES,
    )  # fmt: skip
    return i, q, k_here, keep_here, document_here, document_i, slope, bias_here, class_here, class_bias_here


@triton.jit
def key_span(first, last, keys, window, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """[lo, hi): outside of these keys the queries at positions first..last see nothing. ``Mask.key_span``."""
    lo = 0 * first
    hi = keys
    if WINDOW:
        lo = tl.maximum(first - window + 1, 0)
        hi = tl.minimum(hi, last + window)
    if CAUSAL:
        hi = tl.minimum(hi, last + 1)
    return lo, hi


@triton.jit
def open_span(
    first, last, keys, window,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, KEEP: tl.constexpr, DOCUMENTS: tl.constexpr,
):  # fmt: skip
    """[lo, hi): these keys all queries at positions first..last see; empty when unknown. ``Mask.open_span``."""
    lo = 0 * first
    hi = keys
    if WINDOW:
        lo = tl.maximum(last - window + 1, 0)
        hi = tl.minimum(hi, first + window)
    if CAUSAL:
        hi = tl.minimum(hi, first + 1)
    if KEEP or DOCUMENTS:
        hi = lo
    return lo, hi


@triton.jit
def query_span(first, last, queries, offset, window, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """[lo, hi): the query indices outside of which nobody sees any of the keys first..last."""
    lo = 0 * first
    hi = queries
    if WINDOW:
        lo = tl.maximum(first - window + 1 - offset, 0)
        hi = tl.minimum(hi, last + window - offset)
    if CAUSAL:
        lo = tl.maximum(lo, first - offset)
    return lo, hi
