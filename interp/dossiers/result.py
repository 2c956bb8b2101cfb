"""Head dossiers of a model over a corpus: tables of all heads, and one head's dossier out of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from interp.dossiers.head import HeadDossier, ShownPassage
from interp.errors import InputError
from interp.models.heads import HeadSpec, parse_head
from interp.naming import head_name, nearest
from interp.results.result import Result
from interp_kernels.integers import whole

if TYPE_CHECKING:
    from collections.abc import Iterator

    import plotly.graph_objects as go

TOLD = ("induction_text", "copying", "previous_token", "first_token_sink", "distance")
"""Metrics that the summary names the leading head of."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class HeadDossiers(Result):
    """What every head does over a corpus; columns of the tables as in ``interp.dossiers.tables`` and docs/dossiers.md.

    layers, heads  which layers were measured, and how many query heads each has
    by          the metric that passages are ranked by
    metrics     means over passages, one row a head and metric
    histograms  passages by value, one row a head, metric and bin
    distance    attention by distance, one row a head and bin
    tokens      leading tokens, one row a head, side and place
    passages    those that are shown, one row each, with ids and readable tokens
    shown       which head shows which of them, in which group
    edges       of each head and passage that it shows the strongest edges of each query
    """

    kind: ClassVar[str] = "head_dossiers"

    layers: tuple[int, ...]
    heads: int
    by: str
    metrics: pd.DataFrame
    histograms: pd.DataFrame
    distance: pd.DataFrame
    tokens: pd.DataFrame
    passages: pd.DataFrame
    shown: pd.DataFrame
    edges: pd.DataFrame

    def to_frame(self) -> pd.DataFrame:
        """One row a head and metric: layer, head, metric, value, stderr, chance, passages."""
        return self.metrics.copy()

    def head(self, layer: HeadSpec | int, head: int | None = None) -> HeadDossier:
        """One head's dossier: ``head("L2H5")`` or ``head(2, 5)``.

        Raises:
            InputError: there is no such head.
        """
        spec = layer if head is None else (layer, head)
        of, number = parse_head(spec, dict.fromkeys(self.layers, self.heads))  # pyright: ignore[reportArgumentType]
        assert isinstance(of, int)
        return HeadDossier(
            layer=of,
            head=number,
            by=self.by,
            metrics=_of_head(self.metrics, of, number),
            histograms=_of_head(self.histograms, of, number),
            distance=_of_head(self.distance, of, number),
            tokens=_of_head(self.tokens, of, number),
            passages=tuple(self._shown(of, number)),
            settings=self.settings,
        )

    def of(self, metric: str) -> pd.DataFrame:
        """The rows of one metric, largest value first.

        Raises:
            InputError: it was not measured.
        """
        names = self.metrics["metric"].unique().tolist()
        if metric not in names:
            raise InputError(f"these dossiers have no metric {metric!r}; {nearest(str(metric), names)}")
        rows = self.metrics[self.metrics["metric"] == metric]
        return rows.sort_values(["value", "layer", "head"], ascending=[False, True, True], ignore_index=True)

    def __iter__(self) -> Iterator[HeadDossier]:
        return (self.head(layer, head) for layer in self.layers for head in range(self.heads))

    def __len__(self) -> int:
        return len(self.layers) * self.heads

    def plot(self, x: str = "distance", y: str = "induction_text") -> go.Figure:
        """Heads as points, by two metrics; see ``interp.plots.dossier``."""
        from interp.plots.dossier import heads_figure

        if y == "induction_text" and y not in set(self.metrics["metric"]):
            y = "entropy"  # encoders have no induction score
        return heads_figure(self, x, y)

    def summary(self) -> str:
        inputs = self.settings["inputs"]
        lines = [f"{inputs['passages']:,} passages, {inputs['tokens']:,} tokens; {len(self)} heads"]
        for name in TOLD:
            if name in set(self.metrics["metric"]):
                best = self.of(name).iloc[0]
                if not np.isnan(best["value"]):
                    lines.append(
                        f"  {name:<17} {head_name(best['layer'], best['head'])} {best['value']:.3g} (chance {best['chance']:.3g})"
                    )
        return "\n".join(lines)

    def report(self, heads: HeadSpec | list[HeadSpec] | None = None) -> str:
        """One self-contained HTML page; see ``interp.dossiers.html``. heads: those that it shows, else as many as it holds."""
        from interp.dossiers.html import report_html

        return report_html(self, heads)

    def save_json(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """One JSON file a head, and an index; see ``interp.dossiers.export``."""
        from interp.dossiers.export import save_json

        return save_json(self, Path(folder).expanduser(), overwrite=overwrite)

    @cached_property
    def _edge_rows(self) -> dict[tuple[int, int], slice]:
        """Where the edges of each head stand: they are in the order of heads."""
        pairs = self.edges[["layer", "head"]].to_numpy()
        starts = np.flatnonzero(np.r_[True, (pairs[1:] != pairs[:-1]).any(axis=1)]) if len(pairs) else np.zeros(0, int)
        ends = [*starts[1:].tolist(), len(pairs)]
        return {(int(pairs[a, 0]), int(pairs[a, 1])): slice(int(a), b) for a, b in zip(starts, ends, strict=False)}

    def _shown(self, layer: int, head: int) -> Iterator[ShownPassage]:
        edges = self.edges.iloc[self._edge_rows.get((layer, head), slice(0, 0))]
        by_passage: dict[Any, pd.DataFrame] = dict(iter(edges.groupby("passage", sort=False)))
        for row in _of_head(self.shown, layer, head).itertuples():
            number = whole(row.passage)
            assert number is not None
            passage = self.passages.iloc[number]
            found = by_passage.get(number, edges.iloc[:0])
            yield ShownPassage(
                group=str(row.group),
                rank=int(row.rank),  # pyright: ignore[reportArgumentType]
                value=float(row.value),  # pyright: ignore[reportArgumentType]
                text=int(passage["text"]),
                start=int(passage["start"]),
                ids=np.asarray(passage["ids"], dtype=np.int32),
                tokens=tuple(passage["tokens"]),
                edges=found[["query", "key", "weight"]].reset_index(drop=True),
            )


def load_dossiers(folder: str | Path) -> HeadDossiers:
    """The dossiers that ``HeadDossiers.save`` wrote into ``folder``.

    Raises:
        InputError: there are none, they are damaged, or of another version.
    """
    return HeadDossiers.load(folder)


def _of_head(table: pd.DataFrame, layer: int, head: int) -> pd.DataFrame:
    return (
        table[(table["layer"] == layer) & (table["head"] == head)]
        .drop(columns=["layer", "head"])
        .reset_index(drop=True)
    )
