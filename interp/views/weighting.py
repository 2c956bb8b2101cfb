"""Which numbers of a head's map are shown: the weights themselves, times value norms, or without the sinks.

All of them are a factor for each row, times P, times a factor for each column, so that what a view holds beside the lazy map
is two vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from interp.errors import InputError
from interp.naming import nearest
from interp_kernels import AttentionMap
from interp_kernels.integers import whole, whole_numbers


@dataclass(frozen=True)
class Weighting:
    """One choice of numbers. label: what a colour bar says."""

    name: str
    label: str
    formula: str
    unit: str


WEIGHTINGS = {
    each.name: each
    for each in (
        Weighting("weights", "attention weight", "P_ij", "share of the query's attention"),
        Weighting("value", "weight × value norm", "P_ij ||v_j||", "length, as the value vectors have it"),
        Weighting(
            "no_sink", "weight without the sinks", "P_ij / sum_(k not a sink) P_ik", "share of what the sinks leave"
        ),
    )
}
"""By name.

weights  P_ij, the share of query i's attention that key j gets.
value    P_ij ||v_j||, v_j of the KV head that the query head reads: the length of what j adds to the head's output z_i.
no_sink  P_ij / sum_k P_ik over the keys k that are no sinks, which is P_ij / (1 - P_is) of one sink s: what is left of the row
         once the sinks are taken out, so that it sums to 1. Columns of sinks are left out, as are rows whose whole mass is on
         them (below 1.2e-38 is left). Learned sink logits, where a model has them, are taken out too. The sum is taken over
         what is left, since 1 - P_is has no digits where P_is is nearly 1.

Of a map weighted by its gradient (``AttentionMap.weighted_by``) there is "weights" alone: max(0, P_ij dP_ij).
"""

IN_TOKEN_VIEWS = {"attention": "weights", "value_norm": "value", "without_first": "no_sink"}
"""What ``interp.views.link_weighting`` calls the same numbers."""

RELEVANCE = Weighting(
    "weights", "weight × gradient", "max(0, P_ij dP_ij)", "that of the scalar that was differentiated"
)


@dataclass(frozen=True, eq=False)
class Scales:
    """Factors of rows [n] and columns [Tk]; None: all 1; NaN: left out, shown as what cannot be seen.

    bound: what no shown number exceeds, NaN where that is not known
    """

    rows: Tensor | None
    cols: Tensor | None
    bound: float

    def of_rows(self, rows: slice) -> Scales:
        """Those of consecutive rows."""
        return self if self.rows is None else Scales(self.rows[rows], self.cols, self.bound)


def weighting_of(one: AttentionMap, name: str) -> Weighting:
    """What a name means for this map.

    Raises:
        InputError: no such weighting, or one that a map weighted by its gradient does not have.
    """
    if not isinstance(name, str) or name not in WEIGHTINGS:
        same = IN_TOKEN_VIEWS.get(str(name))
        meant = f"a token view calls {same!r} so" if same else nearest(str(name), WEIGHTINGS)
        raise InputError(f"weighting: there is no {name!r}; {meant}")
    if one.output_gradient is None:
        return WEIGHTINGS[name]
    if name != "weights":
        raise InputError(
            f"weighting: {name!r} is of attention weights, and this map is weighted by its gradient; take 'weights', or the map "
            "that is not"
        )
    return RELEVANCE


def sinks_of(one: AttentionMap, weighting: str, sinks: int | Sequence[int] | None) -> tuple[int, ...]:
    """The sinks that a weighting takes out: keys of ``sinks``, by default the first key that any query sees; else none.

    Raises:
        InputError: they are no keys of the map, or are given for a weighting that takes nothing out.
    """
    if weighting != "no_sink":
        if sinks is not None:
            raise InputError(f"sinks: these are taken out with weighting='no_sink' alone, got {weighting!r}")
        return ()
    keys = one.shape[3]
    if sinks is None:
        return (first_seen(one),)
    single = whole(sinks)
    found = [single] if single is not None else whole_numbers(sinks)
    if not found or not all(0 <= key < keys for key in found):
        raise InputError(f"sinks: expected keys from 0 to {keys - 1}, such as [0], got {sinks!r:.80}")
    return tuple(sorted(set(found)))


def scales_of(one: AttentionMap, weighting: str, sinks: Sequence[int], counted: Tensor | None) -> Scales:
    """The factors of one head's map (or of some of its rows), shape (1, 1, n, Tk).

    counted: bool [n], False for queries that are padding; they are left out. "no_sink" scores all cells of the rows once.
    """
    rows = cols = None
    bound = 1.0 if one.output_gradient is None else float("nan")
    if weighting == "value":
        cols = one.operands.v[0, 0].detach().to(one.lse.dtype).norm(dim=-1)
        keep = one.operands.mask.keep
        bound = float((cols if keep is None or not bool(keep[0].any()) else cols[keep[0]]).max())
    elif weighting == "no_sink":
        cols = torch.ones(one.shape[3], dtype=one.lse.dtype, device=one.lse.device)
        cols[list(sinks)] = 0.0
        left = one.matmul(cols[:, None])[0, 0, :, 0]
        rows = torch.where(left >= torch.finfo(torch.float32).tiny, 1 / left, torch.nan)
        cols[list(sinks)] = torch.nan
    if counted is not None and not bool(counted.all()):
        rows = torch.ones_like(one.lse[0, 0]) if rows is None else rows
        rows = rows.masked_fill(~counted.to(rows.device), torch.nan)
    return Scales(rows, cols, bound)


def first_seen(one: AttentionMap) -> int:
    """The first key that any query sees, 0 where none is seen: past padding on the left, the first token."""
    queries, keys = one.shape[2:]
    for start in range(0, keys, 256):
        seen = one.count_visible(slice(0, queries), slice(start, start + 256), (queries, 1))[0, 0, 0] > 0
        if bool(seen.any()):
            return start + int(seen.nonzero()[0])
    return 0
