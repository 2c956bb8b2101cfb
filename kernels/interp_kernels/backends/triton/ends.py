"""How a row ends: from its maximum and sum to the normaliser, the log-sum-exp and the entropy, with the sink's share."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def closed(m, total, sink, nat, hidden, SINKS: tl.constexpr):
    """From m = max s and l = sum 2^((s - m) c) of the keys: the factor w with P = w 2^((s - m) c), ln of the row's whole
    sum relative to m, the log-sum-exp, and whether a key is seen. nat: nats per unit of score, c ln 2.

    A row that sees no key has w = 0 and the log-sum-exp -inf, or its sink. NaN counts as seen, so that it shows.
    """
    seen = (m > 0.5 * hidden) | (total != total)
    total = tl.where(seen, total, 1.0)
    if SINKS:
        top = tl.maximum(m * nat, sink)
        whole = tl.where(seen, total, 0.0) * tl.exp(m * nat - top) + tl.exp(sink - top)
        factor = tl.exp(m * nat - top) / whole
        log_whole = (top - m * nat) + tl.log(whole)
        lse = top + tl.log(whole)
        lse = tl.where(seen, lse, sink)
    else:
        factor = 1.0 / total
        log_whole = tl.log(total)
        lse = m * nat + log_whole
        lse = tl.where(seen, lse, float("-inf"))
    factor = tl.where(seen, factor, 0.0)
    log_whole = tl.where(seen, log_whole, 0.0)
    return factor, log_whole, lse, seen


@triton.jit
def entropy(total, moment, factor, log_whole, nat):
    """-sum P ln P from u = sum 2^((s - m) c) (s - m): w (l ln(whole) - u nat), two terms of one sign."""
    value = factor * (total * log_whole - moment * nat)
    return tl.where(value < 0.0, 0.0, value)
