"""The tables of head dossiers, as people read them, from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from interp.dossiers.edges import Edges
from interp.dossiers.metrics import METRICS, distance_edges
from interp.dossiers.part import Part
from interp.dossiers.tokens import SIDES
from interp.inputs.tokens import token_row

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

LISTED = 20
"""Tokens in each list."""
LEAST_COUNT = 5
"""A token that stands fewer times is in no list by lift: once looked at, it would lead the list."""


@dataclass(frozen=True)
class ShownRow:
    """A passage in a head's dossier. place: in ``Part.kept``; value: of the metric that passages are ranked by."""

    layer: int
    head: int
    group: str
    rank: int
    place: int
    value: float


def metrics_table(part: Part) -> pd.DataFrame:
    """layer, head, metric, value, stderr, chance, passages (on which it is defined)."""
    layer, head = _heads(part)
    chance = part.chance.means
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "layer": layer,
                    "head": head,
                    "metric": name,
                    "value": part.scores.means[number].ravel(),
                    "stderr": part.scores.stderr[number].ravel(),
                    "chance": np.repeat(chance[number], part.heads),
                    "passages": part.scores.count[number].ravel(),
                }
            )
            for number, name in enumerate(part.metrics)
        ],
        ignore_index=True,
    )


def histogram_table(part: Part) -> pd.DataFrame:
    """layer, head, metric, low, high (of the bin), count (of passages), cut_1 ... cut_4 of the metric that ranks, else NaN."""
    known = {metric.name: metric for metric in METRICS}
    layer, head = _heads(part)
    cuts = part.kept.cuts(part.settings.pool, part.by).reshape(4, -1)
    tables = []
    for number, name in enumerate(part.metrics):
        edges = known[name].edges(part.settings.longest)
        bins = len(edges) - 1
        found = cuts if number == part.by else np.full_like(cuts, np.nan)
        tables.append(
            pd.DataFrame(
                {
                    "layer": np.repeat(layer, bins),
                    "head": np.repeat(head, bins),
                    "metric": name,
                    "low": np.tile(edges[:-1], len(layer)),
                    "high": np.tile(edges[1:], len(layer)),
                    "count": part.histograms[number, ..., :bins].ravel(),
                    **{f"cut_{n + 1}": np.repeat(cut, bins) for n, cut in enumerate(found)},
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def distance_table(part: Part) -> pd.DataFrame:
    """layer, head, low, high (distances low <= |i - j| < high), mass (mean over passages), stderr, chance."""
    layer, head = _heads(part)
    edges = distance_edges(part.settings.longest)
    bins = len(edges) - 1
    return pd.DataFrame(
        {
            "layer": np.repeat(layer, bins),
            "head": np.repeat(head, bins),
            "low": np.tile(edges[:-1], len(layer)),
            "high": np.tile(edges[1:], len(layer)),
            "mass": part.by_distance.means.ravel(),
            "stderr": part.by_distance.stderr.ravel(),
            "chance": np.repeat(part.by_distance_chance.means[:, None], part.heads, axis=1).ravel(),
        }
    )


def tokens_table(model: HookedModel, part: Part) -> pd.DataFrame:
    """Of each head and side the leading tokens: layer, head, side, ranked, rank, id, token, count, weight, share, lift, error.

    weight: the sum over the corpus (``TokenSums``); share: of all tokens' sum; lift: weight over what uniform attention gives the
    same tokens; error: by how much the weight may be too small. ranked: "weight", or "lift" among tokens that stand at least 5
    times.
    """
    sums = part.by_token
    tables = []
    for side, name in enumerate(SIDES):
        for at, layer in enumerate(part.layers):
            chance = sums.chance[side, :, at]
            for head in range(part.heads):
                weight = sums.sums[side, :, at, head]
                lift = np.divide(weight, chance, out=np.full(len(weight), np.nan), where=chance > 0)
                common = np.where(sums.counts >= LEAST_COUNT, np.nan_to_num(lift), 0.0)
                for ranked, values in (("weight", weight), ("lift", common)):
                    best = np.argsort(-values, kind="stable")[:LISTED]
                    best = best[values[best] > 0]
                    tables.append(
                        pd.DataFrame(
                            {
                                "layer": layer,
                                "head": head,
                                "side": name,
                                "ranked": ranked,
                                "rank": np.arange(len(best)),
                                "id": sums.ids[best],
                                "count": sums.counts[best],
                                "weight": weight[best],
                                "share": weight[best] / max(weight.sum(), np.finfo(float).tiny),
                                "lift": lift[best],
                                "error": sums.error[side, at, head],
                            }
                        )
                    )
    table = pd.concat(tables, ignore_index=True)
    shown = {number: model.token_strings([number])[0] for number in table["id"].unique().tolist()}
    table.insert(6, "token", table["id"].map(shown).astype("str"))
    return table


def passages_table(
    model: HookedModel, part: Part, rows: Sequence[ShownRow], edges: Mapping[tuple[int, int, int], Edges]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Three tables.

    passages  passage (0, 1, ... in the order of the corpus), text, start, digest; lists ids and tokens (their readable texts)
    shown     layer, head, group ("strongest", "fifth 1 of 5", ...), rank, passage, value
    edges     layer, head, passage, query, key, weight
    """
    kept = part.kept.passages
    places = sorted({row.place for row in rows}, key=lambda place: (kept[place].text, kept[place].start))
    number = {place: n for n, place in enumerate(places)}
    chosen = [kept[place] for place in places]
    passages = pd.DataFrame(
        {
            "passage": np.arange(len(places)),
            "text": np.array([each.text for each in chosen], dtype=np.int64),
            "start": np.array([each.start for each in chosen], dtype=np.int64),
            "digest": [each.digest for each in chosen],
            "ids": [each.ids for each in chosen],
            "tokens": [token_row(each.ids.tolist(), model.tokenizer).strings for each in chosen],
        }
    )
    shown = pd.DataFrame(
        {
            "layer": np.array([row.layer for row in rows], dtype=np.int64),
            "head": np.array([row.head for row in rows], dtype=np.int64),
            "group": [row.group for row in rows],
            "rank": np.array([row.rank for row in rows], dtype=np.int64),
            "passage": np.array([number[row.place] for row in rows], dtype=np.int64),
            "value": np.array([row.value for row in rows], dtype=np.float64),
        }
    )
    ordered = sorted(edges, key=lambda key: (key[0], key[1], number[key[2]]))
    sizes = [len(edges[key].query) for key in ordered]
    edge_table = pd.DataFrame(
        {
            "layer": np.repeat(np.array([key[0] for key in ordered], dtype=np.int32), sizes),
            "head": np.repeat(np.array([key[1] for key in ordered], dtype=np.int32), sizes),
            "passage": np.repeat(np.array([number[key[2]] for key in ordered], dtype=np.int32), sizes),
            **{
                name: np.concatenate([getattr(edges[key], name) for key in ordered])
                if ordered
                else np.zeros(0, np.float32 if name == "weight" else np.int32)
                for name in ("query", "key", "weight")
            },
        }
    )
    return passages, shown, edge_table


def _heads(part: Part) -> tuple[np.ndarray, np.ndarray]:
    layer, head = np.meshgrid(np.array(part.layers), np.arange(part.heads), indexing="ij")
    return layer.ravel(), head.ravel()
