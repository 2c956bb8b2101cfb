"""What one head does by position and by distance, of a lazy map: one more fused pass over its operands, and one of chance.

The map is never built: probes measure it inside the pass, in O(T) memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from interp.errors import InputError
from interp.naming import name_of
from interp.results.result import Result
from interp.views.map_origin import MapTokens
from interp.views.region import HeadView
from interp.views.token_map import TokenMap
from interp.views.weighting import first_seen
from interp_kernels import (
    Attended,
    AttentionMap,
    ClassBias,
    DistanceHistogram,
    Entropy,
    KeyMass,
    Peak,
    Received,
    attend,
)
from interp_kernels.operands import Operands

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class HeadProfile(Result):
    """One head of one sequence by position and by distance; NaN at padding. Chance is uniform attention over the visible keys.

    entropy        [Tq], -sum_j P_ij ln P_ij in nats; entropy_chance: ln of the number of visible keys, which it cannot exceed
    peak           [Tq], max_j P_ij; peak_key: the lowest key that reaches it, -1 where none is visible; peak_chance
    first_mass     [Tq], P_i,s of the first key s that any query sees (``first_key``); first_chance
    received       [Tk], sum_i P_ij / sum_i m_ij, the mean weight of key j from the queries that see it; NaN where none does;
                   received_chance; seen_by: [Tk], how many queries those are
    edges          [bins + 1], distances 0, 1, 2, 4, 8, ...: a bin holds edges[c] <= |i - j| < edges[c + 1]
    distance       [bins], sum_j P_ij in the bin, mean over the queries that see a key; distance_chance
    has_distance   whether there are distances: not in cross attention, whose queries and keys are of two inputs; then NaN
    queries, keys  tokens by index, "" at padding; () where they are not known
    first_query    position of query 0, counted as those of the keys
    layer          3, or "cross.3" and the like; None where the map does not know it
    head, batch    whose map: query head of the layer, sequence of the batch; kv_head: the KV head that it reads
    """

    kind: ClassVar[str] = "head_profile"

    entropy: np.ndarray
    entropy_chance: np.ndarray
    peak: np.ndarray
    peak_key: np.ndarray
    peak_chance: np.ndarray
    first_mass: np.ndarray
    first_chance: np.ndarray
    received: np.ndarray
    received_chance: np.ndarray
    seen_by: np.ndarray
    edges: np.ndarray
    distance: np.ndarray
    distance_chance: np.ndarray
    has_distance: bool
    queries: tuple[str, ...]
    keys: tuple[str, ...]
    first_key: int
    first_query: int
    layer: int | str | None
    head: int
    batch: int
    kv_head: int

    @property
    def name(self) -> str:
        """ "L2H5", "cross.L2H5"; "head 5" where the layer is not known."""
        return name_of(self.layer, self.head)

    def to_frame(self) -> pd.DataFrame:
        """One row a number: statistic, side ("query", "key" or "distance"), position (of a bin its least distance), token, value,
        chance. Padding has no rows, nor have distances where there are none."""
        import pandas as pd

        parts = []
        for name, side, value, chance in self._by_position():
            at = np.nonzero(~np.isnan(value))[0]
            tokens = self.queries if side == "query" else self.keys
            parts.append(
                pd.DataFrame(
                    {
                        "statistic": name,
                        "side": side,
                        "position": at + (self.first_query if side == "query" else 0),
                        "token": [tokens[n] for n in at] if tokens else None,
                        "value": value[at],
                        "chance": chance[at],
                    }
                )
            )
        if not self.has_distance:
            return pd.concat([part.astype({"token": "object"}) for part in parts], ignore_index=True)
        bins = {"position": self.edges[:-1], "token": None, "value": self.distance, "chance": self.distance_chance}
        parts.append(pd.DataFrame({"statistic": "distance", "side": "distance", **bins}))
        return pd.concat([part.astype({"token": "object"}) for part in parts], ignore_index=True)

    def plot(self, *, dark: bool = False) -> go.Figure:
        """Distance, entropy by position, and what keys receive, in one figure; see ``interp.plots.head_profile``."""
        from interp.plots.head_profile import profile_figure

        return profile_figure(self, dark=dark)

    def summary(self) -> str:
        if not self.seen_by.any():
            return f"{self.name}: no query sees a key"
        share = np.nanmean(self.entropy) / max(float(np.nanmean(self.entropy_chance)), 1e-12)
        # By the sum: of the last keys, which few queries see, the mean says little.
        strongest = int(np.argmax(np.nan_to_num(self.received) * self.seen_by))
        token = f" ({self.keys[strongest]!r})" if self.keys else ""
        return (
            f"{self.name}: entropy {np.nanmean(self.entropy):.2f} nats on average, {share:.0%} of what uniform attention "
            f"has; largest weight {np.nanmean(self.peak):.2f}; on the first key {np.nanmean(self.first_mass):.2f} (chance "
            f"{np.nanmean(self.first_chance):.2f}); key {strongest}{token} receives most, "
            f"{self.received[strongest]:.3f} from each of the {self.seen_by[strongest]:,} queries that see it"
        )

    def _by_position(self) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
        return [
            ("entropy", "query", self.entropy, self.entropy_chance),
            ("peak", "query", self.peak, self.peak_chance),
            ("first_mass", "query", self.first_mass, self.first_chance),
            ("received", "key", self.received, self.received_chance),
        ]


def head_profile(
    map: AttentionMap,  # noqa: A002 - the word of the field
    head: int,
    *,
    batch: int = 0,
) -> HeadProfile:
    """What one head of a lazy map does by position and by distance.

    Time: two fused passes, over the head's own operands and over equal scores for chance, of the same mask and hiding biases;
    each scores every visible cell twice (``Received`` wants every row's normaliser). Memory: O(T).

    Raises:
        InputError: there is no such head or sequence, or the map is weighted by its gradient.
    """
    asked = HeadView.of(map, head, batch, "mean", "weights", None)
    one = asked.one
    if one.output_gradient is not None:
        raise InputError(
            "map: expected attention weights, and this map is weighted by its gradient; give the map that is not"
        )
    queries, keys = asked.shape
    first = first_seen(one)
    edges = _edges(max(keys, queries + abs(asked.first_query)))
    is_first = torch.zeros(keys, 1, device=one.lse.device)
    is_first[first] = 1.0
    counted = None if asked.counted is None else asked.counted.to(one.lse.device)
    seen_by = one.count_visible(slice(0, queries), slice(0, keys), (queries, 1), counted_rows=counted)[0, 0, 0]
    probes = (
        Entropy(queries=counted),
        Peak(queries=counted),
        KeyMass(is_first, name="first_mass", queries=counted),
        Received(normalize=True, queries=counted),
        DistanceHistogram((*edges[:-1], math.inf), name="distance", queries=counted, reduce="mean"),
    )
    if not asked.has_distance:
        probes = probes[:-1]
    nowhere = {} if asked.has_distance else {"distance": np.full(len(edges) - 1, np.nan, dtype=np.float32)}
    measured = _measured(_passed(one.operands, probes)) | nowhere
    chance = _measured(_passed(_uniform(one.operands), probes)) | nowhere
    tokens = one.tokens(0) if isinstance(one, TokenMap) else MapTokens()
    return HeadProfile(
        entropy=measured["entropy"],
        entropy_chance=chance["entropy"],
        peak=measured["peak"],
        peak_key=measured["peak_index"],
        peak_chance=chance["peak"],
        first_mass=measured["first_mass"][..., 0],
        first_chance=chance["first_mass"][..., 0],
        received=measured["received"],
        received_chance=chance["received"],
        seen_by=seen_by.cpu().numpy(),
        edges=np.array(edges),
        distance=measured["distance"],
        distance_chance=chance["distance"],
        has_distance=asked.has_distance,
        queries=tuple(token or "" for token in tokens.queries),
        keys=tuple(token or "" for token in tokens.keys),
        first_key=first,
        first_query=asked.first_query,
        layer=asked.layer,
        head=asked.head,
        batch=asked.batch,
        kv_head=asked.kv_head,
        settings={
            "method": "probes of the head's map, and of uniform attention over the visible keys",
            "constants": {"first_key": first},
        },
    )


def _edges(longest: int) -> tuple[int, ...]:
    """0, 1, 2, 4, ... up to the first power of two that no distance reaches."""
    edges = [0, 1]
    while edges[-1] < longest:
        edges.append(2 * edges[-1])
    return tuple(edges)


def _uniform(ops: Operands) -> Operands:
    """Operands of equal scores under the same mask; of the biases only what hides keys stays."""
    zero = ops.q.new_zeros(())
    return replace(
        ops,
        q=zero.expand(1, 1, ops.queries, 1),
        k=zero.expand(1, 1, ops.keys, 1),
        softcap=None,
        sinks=None,
        alibi=None,
        bias=_only_hiding(ops.bias),
        relative_bias=_only_hiding(ops.relative_bias),
        class_values=_only_hiding(ops.class_values),
    )


def _only_hiding(bias: Tensor | None) -> Tensor | None:
    """0 in the place of every finite bias; what libraries write for -inf counts as such."""
    if bias is None:
        return None
    return torch.where(bias < -4.3e37, -torch.inf, 0.0).to(bias.dtype)


def _passed(ops: Operands, probes: tuple) -> Attended:
    """One pass over the operands of a map; values of one column, since the output is not wanted."""
    class_bias = None
    if ops.class_values is not None and ops.classes is not None:
        class_bias = ClassBias(ops.class_values, ops.classes)
    with torch.no_grad():
        return attend(
            ops.q,
            ops.k,
            ops.v[..., :1],
            mask=ops.mask,
            scale=ops.scale,
            softcap=ops.softcap,
            sinks=ops.sinks,
            alibi=ops.alibi,
            bias=ops.relative_bias if ops.bias is None else ops.bias,
            class_bias=class_bias,
            probes=probes,
        )


def _measured(attended: Attended) -> dict[str, np.ndarray]:
    return {name: value[0, 0].cpu().numpy() for name, value in attended.stats.items()}
