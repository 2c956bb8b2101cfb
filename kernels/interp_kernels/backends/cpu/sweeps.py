"""The compiled sweeps over a tile of scores: everything that touches each score once, for one core, without the GIL.

All of it stands in one file because numba's cache watches the file of the function that is called, and not of those that
it calls. Sums are vectorised, so their terms are reassociated; the exponential is not. NaN goes through to the results.
"""

# numba hands an intrinsic its first argument; the type checker knows nothing of that.
# pyright: reportCallIssue=false

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

HIDDEN = np.float32(np.finfo(np.float32).min / 8)
"""At or below it a score is that of a hidden key (see ``interp_kernels.tiles``)."""

FLOOR = np.float32(np.finfo(np.float32).min / 4)
"""The least score: finite, so that differences of scores are defined. ``interp_kernels.tiles.HIDDEN``"""

f32, i32 = np.float32, np.int32
LOWEST = f32(-np.inf)

LOG2_E = f32(1.4426950408889634)
# ln 2 in two parts: the first has so few digits that its product with a whole number is exact.
LN2_HIGH, LN2_LOW = f32(0.693359375), f32(-2.12194440e-4)
# Adding it rounds to a whole number, which then stands in the last bits.
ROUND = f32(12582912.0)
ROUND_BITS = i32(f32(12582912.0).view(np.int32))
LEAST = f32(-87.0)
# exp(x) = 1 + x + x^2 poly(x) on |x| <= ln(2) / 2; the coefficients of expf in the Cephes library (Moshier).
C0, C1, C2, C3, C4, C5 = (
    f32(c)
    for c in (5.0000001201e-1, 1.6666665459e-1, 4.1665795894e-2, 8.3334519073e-3, 1.3981999507e-3, 1.9875691500e-4)
)

CHUNK = 64

SUMS = {"reassoc", "contract", "nsz"}
NEGATIVE_ZERO = i32(-2147483648)


def compiled(signature: str, fastmath: set[str] | None = None):
    """Compile for a fixed signature, kept in numba's cache where one can be written.

    Without numba's runtime, that is without counting references to every slice of a row: it costs 3 % of all.
    """

    def decorate(function):
        options = {"nogil": True, "fastmath": fastmath or {"contract"}, "error_model": "numpy", "_nrt": False}
        try:
            return njit(signature, cache=True, **options)(function)
        except RuntimeError:  # no folder for the cache
            return njit(signature, **options)(function)

    return decorate


@intrinsic
def _as_float(typingctx, x):
    """The float32 of the same bits."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@intrinsic
def _as_int(typingctx, x):
    """The int32 of the same bits."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), codegen


@intrinsic
def _whole_vectors(typingctx):
    """Let the calling function use vectors of 512 bits where the processor has them; LLVM prefers half of that."""

    def codegen(context, builder, signature, args):
        # llvmlite checks names that are added; this one it does not know, and writes as it is.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.none(), codegen


@intrinsic
def _larger(typingctx, a, b):
    """The larger of two float32, or NaN. Python's own max does not vectorise."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType()] * 2)
        return builder.call(builder.module.declare_intrinsic("llvm.maximum", [ir.FloatType()], kind), args)

    return types.float32(types.float32, types.float32), codegen


@njit(fastmath={"contract"}, error_model="numpy", _nrt=False)
def _exp(x):
    """exp(x) for x <= 0, within 0.7 ulp; 0 below exp(-87). A product scales it, so that NaN stays NaN."""
    bounded = max(x, LEAST)
    rounded = bounded * LOG2_E + ROUND
    n = _as_int(rounded) - ROUND_BITS
    whole = f32(n)
    r = bounded - whole * LN2_HIGH
    r -= whole * LN2_LOW
    y = C5
    y = y * r + C4
    y = y * r + C3
    y = y * r + C2
    y = y * r + C1
    y = y * r + C0
    y = y * r * r + r + f32(1.0)
    y *= _as_float((n + i32(127)) << i32(23))
    return f32(0.0) if x < LEAST else y


@njit(error_model="numpy", _nrt=False)
def _largest(s):
    """The maximum; NaN where there is one."""
    _whole_vectors()
    largest = LOWEST
    for j in range(s.shape[0]):
        largest = _larger(largest, s[j])
    return largest


@njit(fastmath=SUMS, error_model="numpy", _nrt=False)
def _exponentials(s, shift):
    """p = exp(s - shift) in place; sum p and sum p (s - shift)."""
    _whole_vectors()
    total, centred = f32(0.0), f32(0.0)
    for j in range(s.shape[0]):
        c = s[j] - shift
        p = _exp(c)
        total += p
        centred += p * c
        s[j] = p
    return total, centred


@njit(fastmath=SUMS, error_model="numpy", _nrt=False)
def _sum(p):
    _whole_vectors()
    total = f32(0.0)
    for j in range(p.shape[0]):
        total += p[j]
    return total


@njit(fastmath=SUMS, error_model="numpy", _nrt=False)
def _dot(p, w):
    _whole_vectors()
    total = f32(0.0)
    for j in range(p.shape[0]):
        total += p[j] * w[j]
    return total


@njit(fastmath=SUMS, error_model="numpy", _nrt=False)
def _four_dots(p, w0, w1, w2, w3):
    """Four at once: p is read once."""
    _whole_vectors()
    t0, t1, t2, t3 = f32(0.0), f32(0.0), f32(0.0), f32(0.0)
    for j in range(p.shape[0]):
        t0 += p[j] * w0[j]
        t1 += p[j] * w1[j]
        t2 += p[j] * w2[j]
        t3 += p[j] * w3[j]
    return t0, t1, t2, t3


@njit(fastmath=SUMS, error_model="numpy", _nrt=False)
def _sum_where(p, labels, label):
    _whole_vectors()
    total = f32(0.0)
    for j in range(p.shape[0]):
        total += p[j] if labels[j] == label else f32(0.0)
    return total


@njit(fastmath=SUMS, error_model="numpy", _nrt=False)
def _sum_distance(p, key, position, window):
    _whole_vectors()
    total = f32(0.0)
    for j in range(p.shape[0]):
        total += p[j] * min(abs(key[j] - position), window)
    return total


@njit(error_model="numpy", _nrt=False)
def _span(position, first, width, causal, window):
    """The columns [lo, hi) of a tile, whose first key is ``first``, that a query sees by position."""
    lo, hi = 0, width
    if causal:
        hi = min(hi, position - first + 1)
    if window > 0:
        lo = max(lo, position - window + 1 - first)
        hi = min(hi, position + window - first)
    return lo, max(lo, hi)


@njit(error_model="numpy", _nrt=False)
def _keep_largest(s, first, scores, keys, r):
    """Merge a row's scores into its k best, sorted; a later key must be larger to pass an earlier one."""
    k = scores.shape[0]
    for chunk in range(0, s.shape[0], CHUNK):
        stop = min(chunk + CHUNK, s.shape[0])
        # Most chunks hold none: their maximum is found many times faster than they are walked.
        if not _largest(s[chunk:stop]) > scores[k - 1, r]:
            continue
        for j in range(chunk, stop):
            value = s[j]
            if not (value > scores[k - 1, r] and value > HIDDEN):
                continue
            at = k - 1
            while at > 0 and value > scores[at - 1, r]:
                scores[at, r], keys[at, r] = scores[at - 1, r], keys[at - 1, r]
                at -= 1
            scores[at, r], keys[at, r] = value, first + j


@njit(error_model="numpy", _nrt=False)
def _add_chosen(s, values, chosen):
    _whole_vectors()
    for j in range(s.shape[0]):
        x = s[j] + values[chosen[j]]
        # Not a maximum, which would turn NaN into a hidden key.
        s[j] = FLOOR if x < FLOOR else x  # noqa: FURB136


@compiled("void(float32[:, ::1], float32[:, :, :, ::1], uint32[:, :, ::1], int64[::1])")
def add_by_class(tile, values, classes, place):
    """Add to every score what the key's class says. values [B or 1, Hq or 1, Tq, C]; classes [B or 1, Hq or 1, Tk]."""
    sequence, heads, head, rows, first_row, _, first = place
    n, width = tile.shape
    for r in range(n):
        b, h = sequence + r // (rows * heads), head + (r // rows) % heads
        of_row = values[b % values.shape[0], h % values.shape[1], first_row + r % rows]
        changes = False
        for x in range(of_row.shape[0]):
            changes |= of_row[x] != f32(0.0)
        if changes:
            _add_chosen(tile[r], of_row, classes[b % classes.shape[0], h % classes.shape[1], first : first + width])


@compiled(
    "void(float32[:, ::1], float32[:, ::1], float32[:, ::1], int64[::1], boolean, int64,"
    "int32[:, :, ::1], int32[:, :, ::1], boolean[::1], float32[:, :, :, ::1], float32[::1], float32[::1],"
    "int64[:, ::1], int64[::1], boolean[:, ::1], int64[::1], float32[:, ::1], int64[:, ::1])"
)
def row_sweep(  # noqa: PLR0912, PLR0915 - one sweep: a score is touched while it is at hand
    tile,
    output,
    state,
    place,
    causal,
    window,
    query_labels,
    key_labels,
    strict,
    weights,
    key_position,
    distance_windows,
    bins,
    offsets,
    exists,
    peak,
    top_scores,
    top_keys,
):
    """Turn a tile of scores into exp(s - m) and add the row statistics up; m is the row's running maximum.

    tile      [n, C] scores in, exp(s - m) out, 0 where hidden; n = sequences x heads x rows
    output    [n, Dv] sum exp(s - m) v so far; rescaled here, the tile's own share is added by the caller
    state     [3 + linear, n]: m, l = sum exp(s - m), sum exp(s - m) (s - m), then one row for each linear statistic:
              labels, weights, distances, bins, offsets
    place     first sequence, heads, first head, rows, first row, position of the first query, first key
    window    0 for none
    key_labels, query_labels [labels, B, T]; strict [labels]; weights [w, 1 or B, 1 or Hq, Tk]; bins [bins, 2] of distance
    exists    [offsets, n] set where the pair is visible
    peak      [n], or [0] if it is not wanted; top_scores, top_keys [k, n]
    """
    _whole_vectors()
    sequence, heads, head, rows, first_row, offset, first = place
    n, width = tile.shape
    linear = state.shape[0]
    for r in range(n):
        query = first_row + r % rows
        b, h = sequence + r // (rows * heads), head + (r // rows) % heads
        position = query + offset
        row = tile[r]
        lo, hi = _span(position, first, width, causal, window)
        row[:lo] = f32(0.0)
        row[hi:] = f32(0.0)
        if lo == hi:
            continue
        s = row[lo:hi]
        start = first + lo
        old = state[0, r]
        top = _largest(s)
        m = _larger(old, top)
        if m <= HIDDEN:
            s[:] = f32(0.0)
            continue
        if m != old:
            factor = _exp(old - m)
            state[2, r] += (old - m) * state[1, r]
            for x in range(1, linear):
                state[x, r] *= factor
            for x in range(output.shape[1]):
                output[r, x] *= factor
            state[0, r] = m
            if peak.shape[0] > 0:
                for j in range(s.shape[0]):
                    if s[j] == m:
                        peak[r] = start + j
                        break
        if top_scores.shape[0] > 0 and top > top_scores[top_scores.shape[0] - 1, r]:
            _keep_largest(s, start, top_scores, top_keys, r)
        for x in range(offsets.shape[0]):
            j = position - offsets[x] - start
            if 0 <= j < s.shape[0] and not s[j] <= HIDDEN:
                exists[x, r] = True

        total, centred = _exponentials(s, m)
        state[1, r] += total
        state[2, r] += centred
        at = 3
        for x in range(strict.shape[0]):
            label = query_labels[x, b, query]
            stop = min(s.shape[0], position - start) if strict[x] else s.shape[0]
            if label != -1 and stop > 0:
                state[at, r] += _sum_where(s[:stop], key_labels[x, b, start : start + stop], label)
            at += 1
        wb, wh, stop = b % weights.shape[1], h % weights.shape[2], first + hi
        fours = weights.shape[0] - weights.shape[0] % 4
        for x in range(0, fours, 4):
            t0, t1, t2, t3 = _four_dots(
                s,
                weights[x, wb, wh, start:stop],
                weights[x + 1, wb, wh, start:stop],
                weights[x + 2, wb, wh, start:stop],
                weights[x + 3, wb, wh, start:stop],
            )
            state[at, r] += t0
            state[at + 1, r] += t1
            state[at + 2, r] += t2
            state[at + 3, r] += t3
            at += 4
        for x in range(fours, weights.shape[0]):
            state[at, r] += _dot(s, weights[x, wb, wh, start:stop])
            at += 1
        for x in range(distance_windows.shape[0]):
            state[at, r] += _sum_distance(s, key_position[start : first + hi], f32(position), distance_windows[x])
            at += 1
        for x in range(bins.shape[0]):
            near, far = bins[x, 0], bins[x, 1]
            begin, end = max(0, position - far + 1 - start), min(s.shape[0], position - near + 1 - start)
            if begin < end:
                state[at, r] += _sum(s[begin:end])
            begin, end = max(0, position + max(near, 1) - start), min(s.shape[0], position + far - start)
            if begin < end:
                state[at, r] += _sum(s[begin:end])
            at += 1
        for x in range(offsets.shape[0]):
            j = position - offsets[x] - start
            if 0 <= j < s.shape[0]:
                state[at, r] += s[j]
            at += 1


@compiled("void(float32[:, ::1], float32[:, ::1], float32[:, ::1], float32[:, :, ::1], int64[::1])")
def close_rows(output, state, ends, sinks, place):
    """What ``finish.close`` does, for the rows of a block; their output is divided by l.

    ends [3, n]: 1 / l, ln l and the log-sum-exp; sinks [B or 1, Hq, Tq or 1], or [0, 0, 0] where there are none.
    """
    _whole_vectors()
    sequence, heads, head, rows, first_row, _, _ = place
    for r in range(output.shape[0]):
        m, total = state[0, r], state[1, r]
        hidden = m <= HIDDEN
        if sinks.shape[0] > 0:
            b, query = sequence + r // (rows * heads), first_row + r % rows
            sink = sinks[b % sinks.shape[0], head + (r // rows) % heads, query % sinks.shape[2]]
            top = _larger(m, sink)
            share = f32(0.0) if hidden else np.exp(m - top)
            whole = total * share + np.exp(sink - top)
            inverse, log_total, lse = share / whole, (top - m) + np.log(whole), top + np.log(whole)
        else:
            inverse, log_total = f32(1.0) / total, np.log(total)
            lse = LOWEST if hidden else m + log_total
        if hidden:
            inverse, log_total = f32(0.0), f32(0.0)
        ends[0, r], ends[1, r], ends[2, r] = inverse, log_total, lse
        for x in range(output.shape[1]):
            output[r, x] *= inverse


@njit(fastmath={"contract"}, error_model="numpy", _nrt=False)
def _scaled_exponentials(s, shift, factor):
    """factor exp(s - shift) in place; -0.0 where hidden."""
    _whole_vectors()
    for j in range(s.shape[0]):
        less = s[j] - shift
        # A recomputed score may exceed its row's maximum by rounding; a probability may not exceed 1.
        p = factor * _exp(min(less, f32(0.0)))
        s[j] = f32(-0.0) if s[j] <= HIDDEN else p


@compiled("void(float32[:, ::1], float32[:, ::1], float32[:, ::1], int64[::1], boolean, int64)")
def probabilities(tile, shift, factor, place, causal, window):
    """Turn a tile of scores into factor exp(s - shift), row by row; hidden cells become -0.0, which no sum notices.

    shift, factor [heads, Tq]: of the heads of the tile, sequence after sequence.
    """
    _whole_vectors()
    _, _, _, rows, first_row, offset, first = place
    n, width = tile.shape
    for r in range(n):
        h, query, row = r // rows, first_row + r % rows, tile[r]
        lo, hi = _span(query + offset, first, width, causal, window)
        row[:lo] = f32(-0.0)
        row[hi:] = f32(-0.0)
        _scaled_exponentials(row[lo:hi], shift[h, query], factor[h, query])


@njit(error_model="numpy", _nrt=False)
def _add(total, p, weight):
    _whole_vectors()
    for j in range(p.shape[0]):
        total[j] += weight * p[j]


@njit(error_model="numpy", _nrt=False)
def _add_visible(total, p, weight):
    _whole_vectors()
    for j in range(p.shape[0]):
        total[j] += f32(0.0) if _as_int(p[j]) == NEGATIVE_ZERO else weight


@compiled("void(float32[:, ::1], int64[::1], float32[:, ::1], boolean, float32[:, ::1], int64, float32[::1])")
def column_sweep(tile, place, weights, count, columns, at, partial):
    """columns[h, at + j] += sum over the tile's rows of w_i P_ij, or of w_i where the cell is visible.

    tile [heads x rows, C] from ``probabilities``; weights [heads, Tq]; partial [>= C] is scratch.
    A tile is summed by itself first: of many rows, each adds little to what is there.
    """
    _whole_vectors()
    rows, first_row = place[3], place[4]
    n, width = tile.shape
    partial = partial[:width]
    for h in range(n // rows):
        partial[:] = f32(0.0)
        for i in range(rows):
            weight = weights[h, first_row + i]
            if count:
                _add_visible(partial, tile[h * rows + i], weight)
            else:
                _add(partial, tile[h * rows + i], weight)
        for j in range(width):
            columns[h, at + j] += partial[j]


@njit(fastmath=SUMS, error_model="numpy", _nrt=False)
def _count_visible(p):
    _whole_vectors()
    count = i32(0)
    for j in range(p.shape[0]):
        count += i32(0) if _as_int(p[j]) == NEGATIVE_ZERO else i32(1)
    return count


@compiled(
    "void(float32[:, ::1], int64[::1], int64, boolean[:, ::1], int64, boolean, float32[:, :, ::1], int64[:, :, ::1])"
)
def square_sweep(tile, place, at, counted, block, largest, squares, cells):
    """Pool a tile from ``probabilities`` into squares [heads, rows of squares, columns of squares].

    at: the tile's first key, counted from where the first column of squares begins. largest: keep the maximum; else sums,
    with the number of visible cells in ``cells``. counted [heads, Tq]: the rows that count.
    """
    _whole_vectors()
    rows, first_row = place[3], place[4]
    n, width = tile.shape
    for r in range(n):
        h, query = r // rows, first_row + r % rows
        if not counted[h, query]:
            continue
        p, i = tile[r], query // block
        lo = 0
        while lo < width:
            j = (at + lo) // block
            hi = min(width, (j + 1) * block - at)
            if largest:
                squares[h, i, j] = _larger(squares[h, i, j], _largest(p[lo:hi]))
            else:
                squares[h, i, j] += _sum(p[lo:hi])
                cells[h, i, j] += _count_visible(p[lo:hi])
            lo = hi
