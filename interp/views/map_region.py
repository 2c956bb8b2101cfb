"""What a view of a map holds: a rectangle of it, cell by cell or in squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from interp.naming import name_of, stack_name
from interp.results.result import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.plots.attention_map import Colours
    from interp.views.map_origin import MapTokens


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class MapRegion(Result):
    """A rectangle of one head's map, small enough to be looked at.

    values       float32 [r, c]: the numbers of ``weighting`` where block is 1, else their mean over the visible cells or their
                 maximum (``op``) in squares of block x block cells. NaN: no cell is visible, or all are left out
    rows, cols   the queries and the keys that they cover, from the first up to before the last, by index. In squares these are
                 multiples of ``block``, or end where the map ends
    weighting    "weights", "value" or "no_sink"; label, unit: the same in words; sinks: the keys that were taken out
    bound        what no number of this head can exceed, NaN where that is not known: 1 of weights
    map_shape    queries and keys of the whole map, (Tq, Tk)
    first_query  position of query 0, counted as those of the keys: above 0 where keys come from a cache
    layer        3, or "cross.3" and the like; None where the map does not know it
    head, batch  whose map: query head of the layer, sequence of the batch; kv_head: the KV head that it reads
    """

    kind: ClassVar[str] = "map_region"

    values: np.ndarray
    rows: tuple[int, int]
    cols: tuple[int, int]
    block: int
    op: str
    weighting: str
    label: str
    unit: str
    sinks: tuple[int, ...]
    bound: float
    map_shape: tuple[int, int]
    first_query: int
    layer: int | str | None
    head: int
    batch: int
    kv_head: int

    @property
    def name(self) -> str:
        """ "L2H5", "cross.L2H5"; "head 5" where the layer is not known."""
        return name_of(self.layer, self.head)

    @property
    def stack(self) -> str:
        """The stack of layers that it is of, such as "cross"; "" where a model has one, or the layer is not known."""
        return "" if self.layer is None else stack_name(self.layer)

    @property
    def is_exact(self) -> bool:
        """Whether every value is one cell's."""
        return self.block == 1

    @property
    def lowest(self) -> float:
        """The least value, NaN where none is visible."""
        return float(np.nanmin(self.values)) if self._is_seen else float("nan")

    @property
    def highest(self) -> float:
        """The largest value, NaN where none is visible."""
        return float(np.nanmax(self.values)) if self._is_seen else float("nan")

    @property
    def _is_seen(self) -> bool:
        return not bool(np.isnan(self.values).all())

    @property
    def measure(self) -> str:
        """What one value is, in words."""
        if self.is_exact:
            return self.label
        return f"{self.label}, {'mean of visible cells' if self.op == 'mean' else 'max'} of {self.block} × {self.block}"

    def places(self, side: str) -> tuple[np.ndarray, np.ndarray]:
        """The positions that each row (side "queries") or column ("keys") covers: the first of each and the last."""
        (start, stop), first = (self.rows, self.first_query) if side == "queries" else (self.cols, 0)
        begin = np.arange(start, stop, self.block)
        return begin + first, np.minimum(begin + self.block, stop) - 1 + first

    def to_frame(self) -> pd.DataFrame:
        """One row a visible value: query, query_last, key, key_last (positions, inclusive) and value."""
        import pandas as pd

        i, j = np.nonzero(~np.isnan(self.values))
        (query, query_last), (key, key_last) = self.places("queries"), self.places("keys")
        return pd.DataFrame(
            {
                "query": query[i],
                "query_last": query_last[i],
                "key": key[j],
                "key_last": key_last[j],
                "value": self.values[i, j],
            }
        )

    def plot(
        self,
        tokens: MapTokens | Sequence[str] | None = None,
        *,
        title: str | None = None,
        colours: Colours = "fit",
        dark: bool = False,
    ) -> go.Figure:
        """The region as a heat map, by positions where no tokens are given; see ``interp.plots.attention_map.map_figure``."""
        from interp.plots.attention_map import map_figure

        return map_figure(self, tokens, title=title, colours=colours, dark=dark)

    def summary(self) -> str:
        (query, query_last), (key, key_last) = self.places("queries"), self.places("keys")
        return (
            f"{self.name}, queries {query[0]} to {query_last[-1]}, keys {key[0]} to {key_last[-1]}: {self.measure}; "
            + (f"from {self.lowest:.3g} to {self.highest:.3g}" if self._is_seen else "nothing is visible")
        )
