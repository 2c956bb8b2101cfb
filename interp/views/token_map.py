"""The lazy attention map that knows its tokens: what ``HookedModel.maps`` gives.

``interp_kernels`` knows no tokens; here the rows and columns of a map are those of a batch that a model read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from interp.errors import InputError
from interp.naming import stack_name
from interp.views.map_origin import Columns, MapTokens, Origin, Side, columns_of
from interp_kernels import AttentionMap
from interp_kernels.integers import whole

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from transformers import PreTrainedTokenizerBase

    from interp.inputs.batch import Batch
    from interp.models.layers import LayerKey
    from interp.plots.attention_map import Colours
    from interp.views.map_difference import MapDifference
    from interp.views.map_region import MapRegion
    from interp.views.pooling import Op
    from interp.views.region import Span


@dataclass(frozen=True, eq=False, repr=False)
class TokenMap(AttentionMap):
    """An ``AttentionMap`` that knows its layer, and the tokens of its rows and columns for each sequence of its batch.

    All that a lazy map can do it does, and ``head``, ``of_rows`` and ``weighted_by`` give a TokenMap again. Padded queries
    are left out of what is shown: they are as if hidden, and squares do not count them.
    """

    sides: tuple[Side, Side] | None = None
    origin: Origin | None = None

    @classmethod
    def of(
        cls,
        lazy: AttentionMap,
        batch: Batch,
        layer: LayerKey,
        tokenizer: PreTrainedTokenizerBase | None,
        model: Mapping[str, Any] | None = None,
    ) -> TokenMap:
        """The map of a layer (3, or "cross.3" and the like), on a batch that a model read. model: its ``facts``."""
        stack = stack_name(layer)
        encoder, decoder = columns_of(batch, tokenizer)
        match stack:
            case "" | "text" | "encoder":
                queries = keys = encoder
            case "decoder":
                queries = keys = decoder
            case "cross":
                queries, keys = (decoder, encoder) if batch.has_decoder else (encoder, Columns())
            case _:
                queries = keys = Columns()
        sequences = tuple(range(lazy.shape[0]))
        sides = Side(queries, sequences), Side(keys, sequences)
        origin = Origin.of(layer, lazy.shape[1], lazy.operands.group, model)
        return cls(lazy.operands, lazy.lse, lazy.output_gradient, sides, origin)

    def head(self, batch: int, head: int) -> Self:
        one = super().head(batch, head)
        if self.sides is not None:
            queries, keys = (side.of_sequence(batch) for side in self.sides)
            one = replace(one, sides=(queries, keys))
        return one if self.origin is None else replace(one, origin=self.origin.of_head(head))

    def of_rows(self, rows: slice) -> Self:
        some = super().of_rows(rows)
        if self.sides is None:
            return some
        start, stop, _ = rows.indices(self.shape[2])
        return replace(some, sides=(self.sides[0].of_span(start, stop), self.sides[1]))

    def tokens(self, batch: int = 0) -> MapTokens:
        """The tokens of one sequence, by query and by key.

        Raises:
            InputError: there is no such sequence.
        """
        batch = self._sequence(batch)
        if self.sides is None:
            return MapTokens()
        queries, keys = self.sides
        return MapTokens(queries.strings(batch, self.shape[2]), keys.strings(batch, self.shape[3]))

    def counted(self, batch: int = 0) -> Tensor | None:
        """Which queries of one sequence are no padding, bool [Tq]; None where all are.

        Raises:
            InputError: there is no such sequence.
        """
        return None if self.sides is None else self.sides[0].kept(self._sequence(batch), self.shape[2])

    def extent(self, batch: int = 0) -> tuple[Span, Span]:
        """The queries and the keys of one sequence, (first, stop) each, without padding at either end.

        Raises:
            InputError: there is no such sequence.
        """
        batch = self._sequence(batch)
        spans = []
        for number, size in enumerate(self.shape[2:]):
            kept = None if self.sides is None else self.sides[number].kept(batch, size)
            places = [] if kept is None else kept.nonzero()[:, 0].tolist()
            spans.append((places[0], places[-1] + 1) if places else (0, size))
        return spans[0], spans[1]

    def region(
        self,
        head: int,
        *,
        batch: int = 0,
        rows: Span | None = None,
        cols: Span | None = None,
        cells: int | None = None,
        op: Op = "mean",
        weighting: str = "weights",
        sinks: int | Sequence[int] | None = None,
    ) -> MapRegion:
        """A rectangle of one head's map; see ``interp.views.region``."""
        from interp.views.region import CELLS, region

        cells = CELLS if cells is None else cells
        return region(
            self, head, batch=batch, rows=rows, cols=cols, cells=cells, op=op, weighting=weighting, sinks=sinks
        )

    def plot(
        self,
        head: int,
        *,
        batch: int = 0,
        rows: Span | None = None,
        cols: Span | None = None,
        cells: int | None = None,
        op: Op = "mean",
        weighting: str = "weights",
        sinks: int | Sequence[int] | None = None,
        title: str | None = None,
        colours: Colours = "fit",
        dark: bool = False,
    ) -> go.Figure:
        """A rectangle of one head's map, by default all of it, as a heat map with its tokens.

        Args:
            head, batch, rows, cols, cells, op, weighting, sinks: as in ``interp.views.region``.
            title, colours, dark: as in ``interp.plots.attention_map.map_figure``; without a title, the head's name.

        Raises:
            InputError: an argument does not fit the map.
        """
        from interp.plots.attention_map import check_colours, map_figure

        check_colours(colours)
        shown = self.region(
            head, batch=batch, rows=rows, cols=cols, cells=cells, op=op, weighting=weighting, sinks=sinks
        )
        return map_figure(shown, self.tokens(batch), title=title, colours=colours, dark=dark)

    def difference(
        self,
        head: int,
        other: AttentionMap | None = None,
        other_head: int | None = None,
        *,
        batch: int = 0,
        rows: Span | None = None,
        cols: Span | None = None,
        cells: int | None = None,
        op: Op = "mean",
        weighting: str = "weights",
        sinks: int | Sequence[int] | None = None,
    ) -> MapDifference:
        """One head's map less another's at the same place; see ``interp.views.map_difference``.

        Args:
            other: the other head's map, by default this one; other_head: by default ``head``.
        """
        from interp.views.map_difference import map_difference
        from interp.views.region import CELLS

        return map_difference(
            self,
            head,
            self if other is None else other,
            head if other_head is None else other_head,
            batch=batch,
            rows=rows,
            cols=cols,
            cells=CELLS if cells is None else cells,
            op=op,
            weighting=weighting,
            sinks=sinks,
        )

    def _sequence(self, batch: int) -> int:
        found = whole(batch)
        if found is None or not 0 <= found < self.shape[0]:
            raise InputError(f"batch: expected a whole number from 0 to {self.shape[0] - 1}, got {batch!r}")
        return found
