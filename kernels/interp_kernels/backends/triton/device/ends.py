"""How a row ends: from its maximum and sum to the normaliser, the log-sum-exp and the entropy, with the sink's share."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def closed(m, total, sink, nat, hidden, SINKS: tl.constexpr):
    """From m = max s and l = sum 2^((s - m) c) of the keys: the factor w with P = w 2^((s - m) c), ln of the row's whole
    sum relative to m, and the log-sum-exp. nat: nats per unit of score, c ln 2.

    A row that sees no key has w = 0 and the log-sum-exp -inf, or its sink. NaN counts as seen, so that it shows.
    """
    seen = (m > 0.5 * hidden) | (total != total)
    if SINKS:
        top = tl.where(seen, tl.maximum(m * nat, sink), 0.0)
        share = tl.where(seen, tl.exp(m * nat - top), 0.0)
        whole = tl.where(seen, total * share + tl.exp(sink - top), 1.0)
        factor = share / whole
        log_whole = top - m * nat + tl.log(whole)
        lse = tl.where(seen, top + tl.log(whole), sink)
    else:
        whole = tl.where(seen, total, 1.0)
        factor = tl.where(seen, 1.0 / whole, 0.0)
        log_whole = tl.log(whole)
        lse = tl.where(seen, m * nat + log_whole, float("-inf"))
    return factor, tl.where(seen, log_whole, 0.0), lse


@triton.jit
def entropy(total, moment, factor, log_whole, nat):
    """-sum P ln P from u = sum 2^((s - m) c) (s - m): w (l ln(whole) - u nat), two terms of one sign."""
    value = factor * (total * log_whole - moment * nat)
    return tl.where(value < 0.0, 0.0, value)
