"""How unlike two maps of one shape are, row by row: the Jensen-Shannon divergence of two heads, or of one head on two texts.

The definition is that of ``interp.heads.divergences``, which compares all pairs of many heads by means alone. Source: Clark et
al. ("What Does BERT Look At? An Analysis of BERT's Attention", arXiv 1906.04341, section 6; clarkkev/attention-analysis).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp.errors import InputError
from interp.heads.divergence import SMOOTHING, SOURCE
from interp.progress import Bar
from interp.results.result import Result
from interp.versions import versions
from interp.views.region import HeadView
from interp.views.token_map import MapTokens, TokenMap
from interp_kernels import AttentionMap

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.views.head_profile import HeadProfile

MOST = math.log(2)
"""No divergence is larger, in nats."""
ROWS, COLUMNS = 256, 2048
"""Sides of the tiles of both maps that are held at once: 8 MB in float64, and a few times that on the way."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PairDivergence(Result):
    """Of two maps over Tq queries and equally many keys.

    names        what the two are called
    divergence   nats, in [0, ln 2]: the mean of ``by_query`` over the queries that are no padding
    by_query     [Tq], nats, in [0, ln 2]; NaN at padding of either map
    queries      tokens of the first map by index, "" at padding; () where they are not known
    first_query  position of query 0, counted as those of the keys
    """

    kind: ClassVar[str] = "pair_divergence"

    names: tuple[str, str]
    divergence: float
    by_query: np.ndarray
    queries: tuple[str, ...]
    first_query: int

    def to_frame(self) -> pd.DataFrame:
        """One row a query: position, token, divergence. Padding has none."""
        import pandas as pd

        at = np.flatnonzero(~np.isnan(self.by_query))
        return pd.DataFrame(
            {
                "position": at + self.first_query,
                "token": [self.queries[n] for n in at] if self.queries else None,
                "divergence": self.by_query[at],
            }
        )

    def plot(self, *, dark: bool = False) -> go.Figure:
        """The divergence by position; see ``interp.plots.pair_divergence``."""
        from interp.plots.pair_divergence import pair_figure

        return pair_figure(self, dark=dark)

    def summary(self) -> str:
        one, other = self.names
        least, most = (int(find(self.by_query)) for find in (np.nanargmin, np.nanargmax))
        ends = " and ".join(
            f"{word} {self.by_query[at]:.3f} at query {at + self.first_query:,}"
            + (f" ({self.queries[at]!r})" if self.queries else "")
            for word, at in (("least", least), ("most", most))
        )
        return (
            f"{one} and {other}: {self.divergence:.3f} nats on average over {int((~np.isnan(self.by_query)).sum()):,} queries, "
            f"{self.divergence / MOST:.0%} of the most there can be (ln 2 = {MOST:.3f}); {ends}"
        )


def pair_divergence(
    one: AttentionMap,
    head: int,
    other: AttentionMap,
    other_head: int,
    *,
    batch: int = 0,
    other_batch: int = 0,
    names: tuple[str, str] | None = None,
    smoothing: float = SMOOTHING,
    progress: bool = False,
) -> PairDivergence:
    """Jensen-Shannon divergence of two maps, for every query and on average.

    With P and Q the two maps, smoothed to (1 - s) P + s / T over T keys that are no padding, and M = (P + Q) / 2, in nats:

        JS_i = 1/2 sum_j P_ij ln(P_ij / M_ij) + 1/2 sum_j Q_ij ln(Q_ij / M_ij),   0 <= JS_i <= ln 2

    0: the rows are equal; ln 2: no key has weight in both (with smoothing a little less). The mean over the queries that are no
    padding is what ``divergences`` gives for the pair. A key that neither query sees adds nothing. With sink logits a row sums
    to less than 1, and what the sink takes is left out, which keeps the bounds.

    The sum goes over keys, so it is taken tile by tile of both lazy maps, exactly, in float64: every cell that either mask lets
    be seen is scored once in each map. Memory: O(T) and a few tiles, whatever the length.

    Args:
        one, head, batch: a lazy map, such as ``model.maps(text)[2]``, a query head of it and a sequence; other, other_head,
            other_batch: the same of the second.
        names: what the two are called; by default "head 5" and the like.
        smoothing: mass that is spread evenly over the keys, in [0, 1); 0: the rows as they are.
        progress: show a progress bar over rows on stderr.

    Raises:
        InputError: no such head or sequence; maps of different shapes, whose rows are not over the same keys; maps that are
            weighted by a gradient; no query that is no padding; smoothing out of range.
    """
    if isinstance(smoothing, bool) or not isinstance(smoothing, int | float) or not 0 <= smoothing < 1:
        raise InputError(f"smoothing: expected a number from 0 to below 1, got {smoothing!r}")
    if names is not None and (len(names) != 2 or not all(isinstance(name, str) for name in names)):
        raise InputError(f"names: expected two strings, got {names!r:.80}")
    pair = (HeadView.of(one, head, batch, "mean", "weights", None),)
    pair += (HeadView.of(other, other_head, other_batch, "mean", "weights", None),)
    _check_pair(*pair)
    kept, keys = _kept(*pair)
    by_query = _by_query((pair[0].one, pair[1].one), float(smoothing), keys, progress).cpu().numpy()
    by_query[~kept] = np.nan
    first = pair[0].one
    tokens = first.tokens(0) if isinstance(first, TokenMap) else MapTokens()
    return PairDivergence(
        settings={
            "method": "Jensen-Shannon divergence of smoothed rows, by query and as their mean",
            "source": SOURCE,
            "constants": {"smoothing": smoothing, "heads": [head, other_head], "batches": [batch, other_batch]},
            "inputs": {"maps": [_told(each) for each in pair]},
            **_models(*pair),
        },
        names=names or (f"head {pair[0].head}", f"head {pair[1].head}"),
        divergence=float(np.nanmean(by_query)),
        by_query=by_query,
        queries=tuple(token or "" for token in tokens.queries),
        first_query=pair[0].first_query,
    )


class DistanceDivergence(NamedTuple):
    """Nats, in [0, ln 2]. weights: of the two shares by distance; chance: of those of uniform attention over the visible keys."""

    weights: float
    chance: float


def distance_divergence(one: HeadProfile, other: HeadProfile) -> DistanceDivergence:
    """How unlike two heads' shares of attention by distance are: what can be compared where the rows of two maps cannot.

    With p_c and q_c the shares in the bins of ``HeadProfile.distance``, 0 in a bin that one of them lacks, and m = (p + q) / 2:

        JS = 1/2 sum_c p_c ln(p_c / m_c) + 1/2 sum_c q_c ln(q_c / m_c)

    A longer text has keys at distances that a shorter one lacks; ``chance`` says how much of the difference that makes.

    Raises:
        InputError: one of them is no ``HeadProfile``.
    """
    from interp.views.head_profile import HeadProfile

    for name, given in (("one", one), ("other", other)):
        if not isinstance(given, HeadProfile):
            raise InputError(f"{name}: expected what interp.views.head_profile gives, got {type(given).__name__}")
    bins = max(len(one.distance), len(other.distance))

    def wide(x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.pad(x.astype(np.float64), (0, bins - len(x))))

    return DistanceDivergence(
        *(
            float(_cells(wide(a), wide(b)).sum())
            for a, b in ((one.distance, other.distance), (one.distance_chance, other.distance_chance))
        )
    )


def _told(view: HeadView) -> dict[str, Any]:
    """What a map is of: layer and query head, the sequence, its size, and a checksum of the ids that are looked from and at."""
    told: dict[str, Any] = {"layer": view.layer, "head": view.head, "sequence": view.batch, "shape": list(view.shape)}
    sides = view.one.sides if isinstance(view.one, TokenMap) else None
    ids = [] if sides is None else [side.ids(0) for side in sides]
    known = [each for each in ids if each is not None]
    digest = hashlib.sha256(b"".join(each.cpu().contiguous().numpy().tobytes() for each in known))
    return told | {"sha256": digest.hexdigest() if known else None}


def _models(one: HeadView, other: HeadView) -> dict[str, Any]:
    """The model that the maps are of, with the edits in force; and the second one's, where that is another."""
    first, second = (
        each.one.origin.model if isinstance(each.one, TokenMap) and each.one.origin is not None else {}
        for each in (one, other)
    )
    return {"model": first or {"versions": versions()}} | ({"other_model": second} if second != first else {})


def _check_pair(one: HeadView, other: HeadView) -> None:
    if one.shape != other.shape:
        raise InputError(
            f"other: expected a map of {one.shape[0]:,} queries and {one.shape[1]:,} keys like the first one, got "
            f"{other.shape[0]:,} and {other.shape[1]:,}: a row of one has keys that a row of the other has not. Compare texts of "
            "one length, or what heads do by distance (interp.heads.distance_divergence)"
        )
    if one.one.output_gradient is not None or other.one.output_gradient is not None:
        raise InputError(
            "map: expected attention weights, and a map is weighted by its gradient; give the map that is not"
        )


def _kept(one: HeadView, other: HeadView) -> tuple[np.ndarray, int]:
    """Which queries are no padding in either, bool [Tq], and how many keys are no padding in the first."""
    kept = np.ones(one.shape[0], dtype=bool)
    for each in (one, other):
        if each.counted is not None:
            kept &= each.counted.cpu().numpy()
    if not kept.any():
        raise InputError("map: all queries are padding in one of the two; there is nothing to compare")
    of_keys = one.one.sides[1].kept(0, one.shape[1]) if isinstance(one.one, TokenMap) and one.one.sides else None
    return kept, one.shape[1] if of_keys is None else int(of_keys.sum())


def _by_query(pair: tuple[AttentionMap, AttentionMap], smoothing: float, keys: int, progress: bool) -> Tensor:
    """The divergence of every row, float64 [Tq]."""
    queries = pair[0].shape[2]
    total = torch.zeros(queries, dtype=torch.float64, device=pair[0].lse.device)
    with Bar(total=queries, unit="row", what="divergence", show=progress) as bar:
        for start in range(0, queries, ROWS):
            rows = slice(start, min(start + ROWS, queries))
            spans = [_seen(each, rows) for each in pair]
            for column in range(min(lo for lo, _ in spans), max(hi for _, hi in spans), COLUMNS):
                cols = slice(column, min(column + COLUMNS, max(hi for _, hi in spans)))
                p, q = (
                    (1 - smoothing) * each.tile(rows, cols)[0, 0].to(total.device).double() + smoothing / keys
                    for each in pair
                )
                total[rows] += _cells(p, q).sum(dim=1)
            bar.update(rows.stop - rows.start)
    return total


def _seen(one: AttentionMap, rows: slice) -> tuple[int, int]:
    """A range of keys outside of which the rows see nothing."""
    ops = one.operands
    return ops.mask.key_span(rows.start + ops.offset, rows.stop - 1 + ops.offset, ops.keys)


def _cells(p: Tensor, q: Tensor) -> Tensor:
    """What each cell adds: at least 0, since x ln x is convex; 0 where both are 0."""
    middle = ((p + q) / 2).clamp(min=torch.finfo(p.dtype).tiny)
    return ((torch.special.xlogy(p, p / middle) + torch.special.xlogy(q, q / middle)) / 2).clamp(min=0)
