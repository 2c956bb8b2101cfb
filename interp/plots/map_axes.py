"""The axes of a map: token positions, with the tokens themselves where there are few, and both where the pointer rests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.plots.labels import position_ticks, token_label

if TYPE_CHECKING:
    from interp.views.map_origin import MapTokens
    from interp.views.map_region import MapRegion

MOST_LABELS = 40
"""Rows or columns whose tokens are written beside the map; of more, positions are."""
PADDING = "(padding)"


@dataclass(frozen=True)
class MapAxis:
    """One side of a map's heat map: where its squares stand, and what is written beside them.

    start, step  of the squares' centres; low, high: the ends of the axis
    texts        of each square, shown where the pointer rests: its token, or the positions that it covers; () for none
    is_labelled  the same texts are written beside the map; else positions are, on an axis over this one
    name         "query" or "key"; of_whom: where they are of two inputs, whose: "decoder" or "encoder"
    """

    start: float
    step: int
    low: float
    high: float
    texts: tuple[str, ...]
    is_labelled: bool
    name: str
    of_whom: str = ""

    @classmethod
    def of(cls, region: MapRegion, side: str, tokens: Sequence[str | None]) -> MapAxis:
        """side: "queries" or "keys"; tokens: by index, () if they are not known."""
        first, last = region.places(side)
        index = region.rows if side == "queries" else region.cols
        if not region.is_exact:
            texts = tuple(f"{a:,} to {b:,}" if b > a else f"{a:,}" for a, b in zip(first, last, strict=True))
        else:
            shown = tokens[slice(*index)] if tokens else ()
            texts = tuple(PADDING if token is None else token_label(token) for token in shown)
        return cls(
            start=float(first[0]) + (region.block - 1) / 2,
            step=region.block,
            low=float(first[0]) - 0.5,
            high=float(last[-1]) + 0.5,
            texts=texts,
            is_labelled=region.is_exact and 0 < len(texts) <= MOST_LABELS,
            name="query" if side == "queries" else "key",
            of_whom={"queries": "decoder", "keys": "encoder"}[side] if region.stack == "cross" else "",
        )

    @property
    def hover(self) -> str:
        """How a place on this axis is written in a hover template: its position and token, or the positions that it covers."""
        letter = "y" if self.name == "query" else "x"
        if self.step > 1:
            plural = "queries" if self.name == "query" else "keys"
            return f"{plural} %{{{letter}}}"
        # With a format plotly writes the number, without one the text that the axis has there.
        return f"{self.name} %{{{letter}:d}}" + (f" “%{{{letter}}}”" if self.texts else "")

    @property
    def margin(self) -> int:
        """Pixels that its labels need beside the map."""
        if not self.is_labelled:
            return 58 if self.name == "key" else 84
        return 48 + 7 * max(map(len, self.texts))

    def layout(self, faint: str) -> list[dict[str, Any]]:
        """The axis of the heat map and, where that is not labelled, the one over it that shows positions."""
        ends = [self.low, self.high] if self.name == "key" else [self.high, self.low]
        counted = f"{self.name} {'token' if self.is_labelled else 'position'}"
        title = {"text": f"{counted}, {self.of_whom}" if self.of_whom else counted, "standoff": 6}
        plain: dict[str, Any] = {"range": ends, "showgrid": False, "zeroline": False}
        texts: dict[str, Any] = {}
        if self.texts:
            places = self.start + self.step * np.arange(len(self.texts))
            texts = {"tickmode": "array", "tickvals": places.tolist(), "ticktext": list(self.texts)}
        if self.is_labelled or not self.texts:
            whole = {} if self.texts else position_ticks(round(self.high - self.low))
            angle = {"tickangle": -90} if self.name == "key" and self.is_labelled else {}
            return [plain | texts | whole | angle | {"title": title, "tickfont": {"color": faint}}]
        letter = "x" if self.name == "key" else "y"
        over = {"overlaying": letter, "matches": letter, "side": "bottom" if letter == "x" else "left"}
        # Left to itself, an axis over another takes its ticks over.
        ticks = {"tickmode": "auto", "nticks": 9, "tickformat": ",d", "tickfont": {"color": faint}}
        shown = plain | over | ticks | {"title": title}
        return [plain | texts | {"showticklabels": False, "ticks": ""}, shown]


def axes_of(region: MapRegion, tokens: MapTokens | Sequence[str] | None) -> tuple[MapAxis, MapAxis]:
    """The axis of the queries and that of the keys. tokens: of both sides alike, or of each."""
    queries: Sequence[str | None] = ()
    keys: Sequence[str | None] = ()
    if tokens is not None and hasattr(tokens, "queries"):
        queries, keys = tokens.queries, tokens.keys  # pyright: ignore[reportAttributeAccessIssue]
    elif tokens is not None:
        queries = keys = tokens  # pyright: ignore[reportAssignmentType]
    return MapAxis.of(region, "queries", queries), MapAxis.of(region, "keys", keys)
