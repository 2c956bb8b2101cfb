"""What a group of passages says of every head, in a form that can be put together with that of others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from interp.dossiers.moments import Moments
from interp.dossiers.passages import Passage
from interp.dossiers.sampling import Kept
from interp.dossiers.settings import DossierSettings
from interp.dossiers.tokens import TokenSums
from interp.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "interp.dossier_part.1"
TABLES = ("part", "moments", "histograms", "distance", "tokens", "kept")


@dataclass(frozen=True, eq=False)
class Part:
    """A partial result. ``merge`` adds parts of the same settings, model and metrics; see ``merge`` for what is exact.

    settings    resolved ones
    metrics     names, [M]; layers: [L]; heads: of each layer
    passages, tokens  how many were measured, those that come again included
    scores      over passages: [M, L, H]; chance: [M, L]
    histograms  int64 [M, L, H, bins], passages by value; of metrics with fewer bins the last ones are 0
    by_distance mean over passages of the mass by distance: [L, H, bins]; by_distance_chance: [L, bins]
    by_token    sums by token id
    kept        passages that may be shown
    """

    settings: DossierSettings
    metrics: tuple[str, ...]
    layers: tuple[int, ...]
    heads: int
    passages: int
    tokens: int
    scores: Moments
    chance: Moments
    histograms: np.ndarray
    by_distance: Moments
    by_distance_chance: Moments
    by_token: TokenSums
    kept: Kept

    @property
    def by(self) -> int:
        """Which metric passages are ranked by."""
        return self.metrics.index(self.settings.by)

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        moments = (self.scores, self.chance, self.by_distance, self.by_distance_chance)
        arrays = [x for each in moments for x in (each.count, each.mean, each.squares)]
        arrays += [self.histograms, *vars(self.by_token).values(), self.kept.priorities, self.kept.values]
        return sum(array.nbytes for array in arrays) + sum(passage.ids.nbytes for passage in self.kept.passages)

    def to_tables(self) -> dict[str, pd.DataFrame]:
        """Tables that Parquet holds, by name (``TABLES``); ``of_tables`` makes the same part of them, to the last bit.

        part        one row: what it is of, as JSON
        moments     quantity, place in its array, count, mean, squares
        histograms  place, count: where it is not 0
        distance    as moments, of the mass by distance
        tokens      one row a token: id, count; lists of float64 query, key [L H] and query_chance, key_chance [L]
        kept        one row a passage: text, start, priority; lists ids (int32) and values (float32, [M L H])
        """
        import pandas as pd

        head = {
            "format": FORMAT,
            "settings": self.settings.as_json(),
            "metrics": self.metrics,
            "layers": self.layers,
            "heads": self.heads,
            "passages": self.passages,
            "tokens": self.tokens,
            "histograms": self.histograms.shape,
            "by_distance": self.by_distance.mean.shape,
            "error": self.by_token.error.tolist(),
        }
        flat = np.flatnonzero(self.histograms)
        sums, chance = (x.reshape(2, len(self.by_token.ids), -1) for x in (self.by_token.sums, self.by_token.chance))
        return {
            "part": pd.DataFrame({"content": [json.dumps(head)]}),
            "moments": _moments_table({"score": self.scores, "chance": self.chance}),
            "histograms": pd.DataFrame({"place": flat, "count": self.histograms.ravel()[flat]}),
            "distance": _moments_table({"score": self.by_distance, "chance": self.by_distance_chance}),
            "tokens": pd.DataFrame(
                {
                    "id": self.by_token.ids,
                    "count": self.by_token.counts,
                    "query": list(sums[0]),
                    "key": list(sums[1]),
                    "query_chance": list(chance[0]),
                    "key_chance": list(chance[1]),
                }
            ),
            "kept": pd.DataFrame(
                {
                    "text": np.array([passage.text for passage in self.kept.passages], dtype=np.int64),
                    "start": np.array([passage.start for passage in self.kept.passages], dtype=np.int64),
                    "priority": self.kept.priorities,
                    "ids": [passage.ids for passage in self.kept.passages],
                    "values": list(self.kept.values.reshape(len(self.kept.passages), -1)),
                }
            ),
        }

    @classmethod
    def of_tables(cls, tables: Mapping[str, pd.DataFrame]) -> Part:
        """The part that ``to_tables`` was asked of.

        Raises:
            InputError: a table is missing, or they are of another format.
        """
        missing = [name for name in TABLES if name not in tables]
        if missing:
            raise InputError(f"a part of head dossiers lacks the tables {', '.join(missing)}")
        try:
            head = json.loads(str(tables["part"]["content"].iloc[0]))
            if head["format"] != FORMAT:
                raise InputError(f"this part of head dossiers has the format {head['format']!r}, expected {FORMAT!r}")
            return cls._of(head, tables)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"a part of head dossiers is damaged: {error}") from error

    @classmethod
    def _of(cls, head: Mapping, tables: Mapping[str, pd.DataFrame]) -> Part:
        metrics, layers, heads = tuple(head["metrics"]), tuple(head["layers"]), int(head["heads"])
        m, count = len(metrics), len(layers)
        histograms = np.zeros(head["histograms"], dtype=np.int64)
        histograms.ravel()[tables["histograms"]["place"].to_numpy()] = tables["histograms"]["count"].to_numpy()
        bins = head["by_distance"][-1]
        tokens, kept = tables["tokens"], tables["kept"]
        u, n = len(tokens), len(kept)
        sides = (("query", "key"), ("query_chance", "key_chance"))
        sums, chance = (np.stack([_stacked(tokens[side], np.float64) for side in names]) for names in sides)
        return cls(
            settings=DossierSettings(**head["settings"]),
            metrics=metrics,
            layers=layers,
            heads=heads,
            passages=int(head["passages"]),
            tokens=int(head["tokens"]),
            scores=_moments(tables["moments"], "score", (m, count, heads)),
            chance=_moments(tables["moments"], "chance", (m, count)),
            histograms=histograms,
            by_distance=_moments(tables["distance"], "score", (count, heads, bins)),
            by_distance_chance=_moments(tables["distance"], "chance", (count, bins)),
            by_token=TokenSums(
                tokens["id"].to_numpy().astype(np.int64),
                tokens["count"].to_numpy().astype(np.int64),
                sums.reshape(2, u, count, heads),
                chance.reshape(2, u, count),
                np.array(head["error"], dtype=np.float64).reshape(2, count, heads),
            ),
            kept=Kept(
                [
                    Passage(int(text), int(start), np.asarray(ids, dtype=np.int32))
                    for text, start, ids in zip(kept["text"], kept["start"], kept["ids"], strict=True)
                ],
                kept["priority"].to_numpy().astype(np.uint64),
                _stacked(kept["values"], np.float32).reshape(n, m, count, heads),
            ),
        )


def merge(parts: Sequence[Part]) -> Part:
    """All of them as one, added in the order given.

    Counts, histograms and the passages that are kept do not depend on how the passages were divided or ordered, except where two
    values of the metric differ by rounding alone. Means and sums are the same up to the order of their additions (float64), and
    to the last bit for the same parts in the same order. Where more different tokens occur than ``token_rows``, sums by token
    are lower bounds, as ``TokenSums.error`` says.

    Raises:
        InputError: there is none, or they are of different settings, layers or metrics.
    """
    parts = list(parts)
    if not parts:
        raise InputError("parts: there is none to merge; measure at least one passage")
    first = parts[0]
    for part in parts[1:]:
        for name in ("settings", "metrics", "layers", "heads"):
            if getattr(part, name) != getattr(first, name):
                raise InputError(
                    f"parts: they do not belong together, {name} is {getattr(first, name)!r} in one and "
                    f"{getattr(part, name)!r} in another"
                )
    kept = Kept.merged([part.kept for part in parts])
    return replace(
        first,
        passages=sum(part.passages for part in parts),
        tokens=sum(part.tokens for part in parts),
        scores=Moments.merged([part.scores for part in parts]),
        chance=Moments.merged([part.chance for part in parts]),
        histograms=sum((part.histograms for part in parts[1:]), first.histograms),
        by_distance=Moments.merged([part.by_distance for part in parts]),
        by_distance_chance=Moments.merged([part.by_distance_chance for part in parts]),
        by_token=TokenSums.merged(
            [part.by_token for part in parts], first.settings.token_rows or len(first.by_token.ids)
        ),
        kept=kept.chosen(first.settings.pool, first.settings.strongest, first.by),
    )


def _moments_table(named: Mapping[str, Moments]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(
        [
            pd.DataFrame(
                {
                    "quantity": name,
                    "place": np.arange(each.count.size),
                    "count": each.count.ravel(),
                    "mean": each.mean.ravel(),
                    "squares": each.squares.ravel(),
                }
            )
            for name, each in named.items()
        ],
        ignore_index=True,
    )


def _moments(table: pd.DataFrame, quantity: str, shape: tuple[int, ...]) -> Moments:
    rows = table[table["quantity"] == quantity].sort_values("place")
    return Moments(*(rows[name].to_numpy().reshape(shape) for name in ("count", "mean", "squares")))


def _stacked(column: pd.Series, dtype: type) -> np.ndarray:
    """A column of lists of one length as an array."""
    return np.array(column.tolist(), dtype=dtype) if len(column) else np.zeros((0, 0), dtype)
