"""One row from its parts: what programs that saw different ranges of keys leave, brought to one maximum and summed in order."""

from __future__ import annotations

import triton
import triton.language as tl

from interp_kernels.backends.triton.device.ends import closed, entropy
from interp_kernels.backends.triton.device.linear import each


@triton.jit(do_not_specialize=["heads", "queries", "rows", "splits"])
def merge_kernel(
    part_out_ptr, part_shift_ptr, part_factor_ptr, part_tile_ptr, part_entropy_ptr, part_linear_ptr,
    out_ptr, lse_ptr, shift_ptr, factor_ptr, tile_ptr, entropy_ptr, linear_ptr, sink_ptr,
    heads, queries, rows, splits, c, nat, hidden,
    DV: tl.constexpr, DV_PAD: tl.constexpr, SINKS: tl.constexpr, ROW_SINKS: tl.constexpr, STATE: tl.constexpr,
    ENTROPY: tl.constexpr, PEAK: tl.constexpr, LINEAR: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Parts [splits, rows, ...] as the forward kernel writes them with SPLIT, linear ones [G, splits, rows]; results as it
    writes them without. m = max m_n, a_n = 2^((m_n - m) c); sums are a_n g_n, the entropy's a_n (u_n + (m_n - m) l_n)."""
    at = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = at < rows
    column = tl.arange(0, DV_PAD)
    inside = valid[:, None] & (column < DV)[None, :]
    m = tl.zeros([BLOCK_M], tl.float32) + hidden
    found = tl.full([BLOCK_M], -1, tl.int32)
    for n in range(splits):
        part = tl.load(part_shift_ptr + tl.cast(n, tl.int64) * rows + at, mask=valid, other=0.0)
        if PEAK:
            # The first of equal maxima stays.
            tile = tl.load(part_tile_ptr + tl.cast(n, tl.int64) * rows + at, mask=valid, other=-1)
            found = tl.where(part > m, tile, found)
        m = tl.maximum(m, part)
    safe = tl.where(m <= 0.5 * hidden, 0.0, m)
    total = tl.zeros([BLOCK_M], tl.float32)
    moment = tl.zeros([BLOCK_M], tl.float32)
    g = each(LINEAR, tl.zeros([BLOCK_M], tl.float32))
    acc = tl.zeros([BLOCK_M, DV_PAD], tl.float32)
    for n in range(splits):
        here = tl.cast(n, tl.int64) * rows + at
        part = tl.load(part_shift_ptr + here, mask=valid, other=0.0)
        a = tl.exp2((part - safe) * c)
        part_total = tl.load(part_factor_ptr + here, mask=valid, other=1.0)
        if ENTROPY:
            moment += a * (tl.load(part_entropy_ptr + here, mask=valid, other=0.0) + (part - safe) * part_total)
        total += a * part_total
        sums = ()
        for k in tl.static_range(LINEAR):
            value = tl.load(part_linear_ptr + k * splits * rows + here, mask=valid, other=0.0)
            sums = sums + (g[k] + a * value,)
        g = sums
        acc += a[:, None] * tl.load(part_out_ptr + here[:, None] * DV + column[None, :], mask=inside, other=0.0)
    sink = m
    if SINKS:
        place = at if ROW_SINKS else at // queries % heads
        sink = tl.load(sink_ptr + place, mask=valid, other=0.0).to(tl.float32)
    factor, log_whole, lse = closed(m, total, sink, nat, hidden, SINKS)
    tl.store(lse_ptr + at, lse, mask=valid)
    if STATE:
        tl.store(shift_ptr + at, tl.where(total != total, total, m), mask=valid)
        tl.store(factor_ptr + at, factor, mask=valid)
    if ENTROPY:
        tl.store(entropy_ptr + at, entropy(total, moment, factor, log_whole, nat), mask=valid)
    if PEAK:
        tl.store(tile_ptr + at, found, mask=valid)
    for k in tl.static_range(LINEAR):
        tl.store(linear_ptr + k * rows + at, g[k] * factor, mask=valid)
    out = (acc * factor[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + at[:, None] * DV + column[None, :], out, mask=inside)
