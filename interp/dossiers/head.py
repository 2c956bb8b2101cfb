"""One head's dossier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from interp.errors import InputError
from interp.naming import head_name, nearest

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class ShownPassage:
    """A passage that a dossier shows.

    group   "strongest", or "fifth 1 of 5" (the smallest values) to "fifth 5 of 5"; rank: its place within, from 0
    value   of the metric that passages are ranked by
    text    which text of the corpus it stands in; start: its first token there
    ids     token ids; tokens: their readable texts, which may hold anything, markup included
    edges   query, key (positions in the passage), weight: the strongest edges of each query, largest first
    """

    group: str
    rank: int
    value: float
    text: int
    start: int
    ids: np.ndarray
    tokens: tuple[str, ...]
    edges: pd.DataFrame

    @property
    def strongest(self) -> tuple[int, int, float] | None:
        """Query, key and weight of the largest edge, of queries that look most at another token than themselves and the first.

        None where no query does.
        """
        first = self.edges.drop_duplicates("query")
        away = first[(first["key"] != 0) & (first["key"] != first["query"])]
        if away.empty:
            return None
        row = away.iloc[int(away["weight"].to_numpy().argmax())]
        return int(row["query"]), int(row["key"]), float(row["weight"])


@dataclass(frozen=True, eq=False, repr=False)
class HeadDossier:
    """What one head does over a corpus. Tables as in ``HeadDossiers``, without layer and head.

    passages: those that it shows, the strongest first, then the samples by fifth
    """

    layer: int
    head: int
    by: str
    metrics: pd.DataFrame
    histograms: pd.DataFrame
    distance: pd.DataFrame
    tokens: pd.DataFrame
    passages: tuple[ShownPassage, ...]
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """ "L2H5" """
        return head_name(self.layer, self.head)

    def metric(self, name: str) -> float:
        """The mean over passages of a metric.

        Raises:
            InputError: it was not measured.
        """
        return float(self._row(name)["value"])

    def chance(self, name: str) -> float:
        """What uniform attention over the visible keys gets on the same passages."""
        return float(self._row(name)["chance"])

    def group(self, name: str) -> tuple[ShownPassage, ...]:
        """The passages of a group, "strongest" or "fifth 3 of 5"."""
        known = list(dict.fromkeys(passage.group for passage in self.passages))
        if name not in known:
            raise InputError(f"this dossier has no passages {name!r}; {nearest(str(name), known)}")
        return tuple(passage for passage in self.passages if passage.group == name)

    def leading(self, side: Literal["query", "key"], ranked: Literal["weight", "lift"] = "weight") -> pd.DataFrame:
        """The tokens that look most at others ("query") or are looked at most ("key"): id, token, count, weight, share, lift."""
        for name, value, known in (("side", side, ("query", "key")), ("ranked", ranked, ("weight", "lift"))):
            if value not in known:
                raise InputError(f"{name}: unknown {value!r}; {nearest(str(value), known)}")
        rows = self.tokens[(self.tokens["side"] == side) & (self.tokens["ranked"] == ranked)]
        return rows.sort_values("rank", ignore_index=True).drop(columns=["side", "ranked", "rank"])

    def histogram(self, metric: str | None = None) -> pd.DataFrame:
        """Passages by value of a metric (that which ranks them, by default): low, high, count, cut_1 ... cut_4."""
        name = self.by if metric is None else metric
        self._row(name)
        return self.histograms[self.histograms["metric"] == name].drop(columns="metric").reset_index(drop=True)

    def plot(self, *, dark: bool = False) -> go.Figure:
        """Passages by value, cut into fifths, beside the attention by distance; see ``interp.plots.dossier``."""
        from interp.plots.dossier import dossier_figure

        return dossier_figure(self, dark=dark)

    def as_json(self) -> dict[str, Any]:
        """What JSON holds of it; see ``interp.dossiers.export``."""
        from interp.dossiers.export import head_json

        return head_json(self)

    def summary(self) -> str:
        values = {row["metric"]: row for row in self.metrics.to_dict("records")}
        told = ", ".join(f"{name} {row['value']:.3g} (chance {row['chance']:.3g})" for name, row in values.items())
        return f"{self.name}: {told}"

    def __repr__(self) -> str:
        return f"HeadDossier({self.summary()}; {len(self.passages)} passages)"

    def _repr_html_(self) -> str:
        from interp.dossiers.html import dossier_html

        return dossier_html(self)

    def _row(self, name: str) -> Mapping[Any, Any]:
        rows = self.metrics[self.metrics["metric"] == name]
        if rows.empty:
            known = self.metrics["metric"].tolist()
            raise InputError(f"this dossier has no metric {name!r}; {nearest(str(name), known)}")
        return rows.iloc[0].to_dict()
