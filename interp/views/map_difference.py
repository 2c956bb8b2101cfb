"""One head's map less another's at the same place: of two heads, or of one head before and after an edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from interp.errors import InputError
from interp.views.map_origin import MapTokens
from interp.views.map_region import MapRegion
from interp.views.pooling import Op
from interp.views.region import CELLS, HeadView, Span, placed
from interp.views.token_map import TokenMap
from interp_kernels import AttentionMap

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SAME = ("rows", "cols", "block", "op", "weighting", "label", "sinks", "first_query")
"""What two regions must have in common, so that their difference is one of like with like."""


@dataclass(frozen=True, eq=False, repr=False)
class MapDifference:
    """Two regions of the same place, and ``values`` of the first less those of the second.

    tokens  of the whole text, as ``TokenMap.tokens`` gives them
    """

    first: MapRegion
    second: MapRegion
    tokens: MapTokens | None = None

    def __post_init__(self) -> None:
        for name in SAME:
            came, expected = getattr(self.second, name), getattr(self.first, name)
            if came != expected and not (name == "op" and self.first.is_exact):
                raise InputError(
                    f"regions: expected two of the same place, squares and weighting, and their {name} differ: {expected!r} "
                    f"and {came!r}"
                )

    @property
    def values(self) -> np.ndarray:
        """float32 [r, c], in the units of the regions; NaN where one of them shows nothing. Of weights from -1 to 1.

        In squares it is the difference of what they show: of means the mean of the difference, where both hide the same cells;
        of maxima the difference of the two largest weights, which may stand in different cells.
        """
        return self.first.values - self.second.values

    @property
    def name(self) -> str:
        """ "L2H5 less L1H3"."""
        return f"{self.first.name} less {self.second.name}"

    def to_frame(self) -> pd.DataFrame:
        """One row a value: query, query_last, key, key_last (positions, inclusive), first, second and difference.

        What one of the two does not show has no row.
        """
        place = ["query", "query_last", "key", "key_last"]
        both = self.first.to_frame().merge(self.second.to_frame(), on=place, suffixes=("_first", "_second"))
        both = both.rename(columns={"value_first": "first", "value_second": "second"})
        return both.assign(difference=both["first"] - both["second"])

    def plot(self, *, title: str | None = None, dark: bool = False) -> go.Figure:
        """Red where the first is larger, blue where the second is; see ``interp.plots.attention_map.difference_figure``."""
        from interp.plots.attention_map import difference_figure

        return difference_figure(self.first, self.second, self.tokens, title=title, dark=dark)

    def __repr__(self) -> str:
        seen = self.values[~np.isnan(self.values)]
        (query, query_last), (key, key_last) = self.first.places("queries"), self.first.places("keys")
        found = f"from {seen.min():+.3g} to {seen.max():+.3g}" if seen.size else "nothing is seen in both"
        return (
            f"MapDifference({self.name}, queries {query[0]} to {query_last[-1]}, keys {key[0]} to {key_last[-1]}: "
            f"{self.first.measure}; {found})"
        )


def map_difference(
    map: AttentionMap,  # noqa: A002 - the word of the field
    head: int,
    other: AttentionMap,
    other_head: int,
    *,
    batch: int = 0,
    rows: Span | None = None,
    cols: Span | None = None,
    cells: int = CELLS,
    op: Op = "mean",
    weighting: str = "weights",
    sinks: int | Sequence[int] | None = None,
) -> MapDifference:
    """One head's map less another's, at the same place and in the same squares.

    Time and memory: those of two regions; see ``interp.views.region``.

    Args:
        map, head: the first head; other, other_head: the one that is taken away. The maps are of one text, or of two with as
            many tokens: such as ``model.maps(text)[2]`` before an edit and in it.
        batch, rows, cols, cells, op, weighting, sinks: of both, as in ``interp.views.region``; padding is that of the first.

    Raises:
        InputError: an argument does not fit the maps, or they have not as many queries and keys.
    """
    one = HeadView.of(map, head, batch, op, weighting, sinks)
    if not isinstance(other, AttentionMap):
        raise InputError(
            f"other: expected a lazy attention map, such as model.maps(text)[layer], got {type(other).__name__}"
        )
    if other.shape[2:] != map.shape[2:]:
        (queries, keys), (came, came_keys) = map.shape[2:], other.shape[2:]
        raise InputError(
            f"other: expected a map of {queries:,} queries and {keys:,} keys, as the first, got one of {came:,} and "
            f"{came_keys:,}; of texts of different lengths compare profiles: interp.plots.profile_comparison"
        )
    two = HeadView.of(other, other_head, batch, op, weighting, one.sinks or None)
    place = placed(one, rows, cols, cells)
    tokens = map.tokens(batch) if isinstance(map, TokenMap) else None
    return MapDifference(one.region(place), two.region(place), tokens)
