"""A part of one head's map at the resolution that fits a screen: single weights where they fit, else squares of them.

The map itself is never built: what is asked for is scored from queries, keys and log-sum-exp, in strips of bounded size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from interp.errors import InputError
from interp.naming import name_of
from interp.views.map_region import MapRegion
from interp.views.pooling import Op, pooled, scored
from interp.views.token_map import TokenMap
from interp.views.weighting import Scales, Weighting, scales_of, sinks_of, weighting_of
from interp_kernels import AttentionMap
from interp_kernels.integers import whole, whole_numbers

if TYPE_CHECKING:
    from interp.models.layers import LayerKey

CELLS = 224
"""Cells of a view along a side: what a screen shows of squares of 3 pixels. 224 x 224 float32 are 270 kB as base64."""
MOST_CELLS = 2048
"""Most cells along a side that a view may have: 16 MB."""

Span = tuple[int, int]
"""From the first index up to before the last."""


@dataclass(frozen=True)
class Place:
    """Where a view lies: indices of queries and keys, widened to multiples of its block."""

    rows: Span
    cols: Span
    block: int


@dataclass(frozen=True, eq=False)
class HeadView:
    """One head of a map, and which of its numbers are shown: checked arguments that ``region`` and ``Pyramid`` share.

    one          the head's map, shape (1, 1, Tq, Tk)
    layer        that it is of, None where the map does not know
    head, batch  its numbers in the layer and in the batch that the model read, where the map knows them; kv_head
    counted      bool [Tq], False for queries that are padding; None: all count
    """

    one: AttentionMap
    layer: LayerKey | None
    head: int
    batch: int
    kv_head: int
    op: Op
    weighting: Weighting
    sinks: tuple[int, ...]
    counted: Tensor | None

    @classmethod
    def of(
        cls,
        lazy: AttentionMap,
        head: int,
        batch: int,
        op: Op,
        weighting: str,
        sinks: int | Sequence[int] | None,
    ) -> HeadView:
        """Raises InputError where an argument does not fit the map."""
        if not isinstance(lazy, AttentionMap):
            raise InputError(
                f"map: expected a lazy attention map, such as model.maps(text)[layer], got {type(lazy).__name__}"
            )
        batches, heads = lazy.shape[:2]
        head, batch = checked_index("head", head, heads), checked_index("batch", batch, batches)
        if op not in ("mean", "max"):
            raise InputError(f"op: expected 'mean' or 'max', got {op!r}")
        one = lazy.head(batch, head)
        chosen = weighting_of(one, weighting)
        layer, kv_head = None, head // lazy.operands.group
        if isinstance(one, TokenMap) and one.origin is not None:
            layer, (head,), (kv_head,) = one.origin.layer, one.origin.heads, one.origin.kv_heads
        if isinstance(one, TokenMap) and one.sides is not None:
            (batch,) = one.sides[0].sequences
        return cls(
            one=one,
            layer=layer,
            head=head,
            batch=batch,
            kv_head=kv_head,
            op=op,
            weighting=chosen,
            sinks=sinks_of(one, chosen.name, sinks),
            counted=one.counted(0) if isinstance(one, TokenMap) else None,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Queries and keys."""
        return self.one.shape[2:]

    @property
    def name(self) -> str:
        """ "L2H5"; "head 5" where the layer is not known."""
        return name_of(self.layer, self.head)

    @property
    def has_distance(self) -> bool:
        """Whether queries and keys are of one sequence, so that there is a distance between them; not in cross attention."""
        if isinstance(self.one, TokenMap) and self.one.origin is not None and self.one.origin.is_cross:
            return False
        mask = self.one.operands.mask
        is_by_position = mask.offset is not None or mask.is_causal or mask.window is not None
        # Without a rule on positions they say nothing of a query's place.
        return is_by_position or self.shape[0] == self.shape[1]

    @property
    def first_query(self) -> int:
        """Position of query 0: counted as those of the keys, or in an input of its own."""
        if self.has_distance:
            return self.one.operands.offset
        span = self.one.sides[0].span if isinstance(self.one, TokenMap) and self.one.sides is not None else None
        return 0 if span is None else span[0]

    def scales(self, rows: slice | None = None) -> Scales:
        """The factors of some rows, by default of all."""
        rows = slice(0, self.shape[0]) if rows is None else rows
        counted = None if self.counted is None else self.counted[rows]
        return scales_of(self.one.of_rows(rows), self.weighting.name, self.sinks, counted)

    def work(self, place: Place) -> int:
        """Cells of the map that the numbers of a place are made of."""
        rows = slice(*place.rows)
        return scored(self.one, rows, slice(*place.cols))

    def region(self, place: Place, scales: Scales | None = None) -> MapRegion:
        """The numbers of a place, from the lazy map. scales: those of its rows, if they are known."""
        rows, cols = slice(*place.rows), slice(*place.cols)
        part = self.one.of_rows(rows)
        scales = self.scales(rows) if scales is None else scales
        is_exact = place.block == 1
        values = _cells(part, cols, scales) if is_exact else pooled(part, cols, place.block, self.op, scales).values
        return self.shown(place, values.cpu().numpy(), scales.bound)

    def shown(self, place: Place, values: np.ndarray, bound: float) -> MapRegion:
        """These values as the region of a place."""
        constants: dict[str, Any] = {"block": place.block, "op": self.op, "weighting": self.weighting.name}
        return MapRegion(
            values=np.ascontiguousarray(values, dtype=np.float32),
            rows=place.rows,
            cols=place.cols,
            block=place.block,
            op=self.op,
            weighting=self.weighting.name,
            label=self.weighting.label,
            unit=self.weighting.unit,
            sinks=self.sinks,
            bound=bound,
            map_shape=self.shape,
            first_query=self.first_query,
            layer=self.layer,
            head=self.head,
            batch=self.batch,
            kv_head=self.kv_head,
            settings={"method": self.weighting.formula, "constants": constants | {"sinks": list(self.sinks)}},
        )


def region(
    map: AttentionMap,  # noqa: A002 - the word of the field
    head: int,
    *,
    batch: int = 0,
    rows: Span | None = None,
    cols: Span | None = None,
    cells: int = CELLS,
    op: Op = "mean",
    weighting: str = "weights",
    sinks: int | Sequence[int] | None = None,
) -> MapRegion:
    """A rectangle of one head's map, in at most about ``cells`` x ``cells`` numbers.

    Where the rectangle has at most ``cells`` rows and columns they are its weights, one by one. Else they are means over the
    visible cells, or maxima, of squares whose side ("block") is the least power of two with which both sides fit. Squares lie
    at multiples of the block, so the rectangle is widened to those, and may have one square more than ``cells`` along a side.

    Time: every visible cell of the rectangle is scored once ("no_sink": every cell of its rows, once more); ``work`` says how
    many that is, ``Pyramid`` keeps what zooming would score again and again. Memory: some 40 MB, whatever the length.

    Args:
        map: of one layer, such as ``model.maps(text)[3]``; see ``HookedModel.maps``.
        head: query head, counted from 0; batch: which sequence.
        rows: queries (first, stop), by index; all by default, padding at either end left out. cols: keys, just so.
        cells: numbers along a side.
        op: what a square shows, "mean" over its visible cells or "max".
        weighting: which numbers, see ``interp.views.weighting``.
        sinks: with "no_sink", the keys that are taken out; by default the first token.

    Raises:
        InputError: an argument does not fit the map.
    """
    asked = HeadView.of(map, head, batch, op, weighting, sinks)
    return asked.region(placed(asked, rows, cols, cells))


def placed(asked: HeadView, rows: Span | None, cols: Span | None, cells: int) -> Place:
    """The place of a view; see ``region``."""
    count = whole(cells)
    if count is None or not 1 <= count <= MOST_CELLS:
        raise InputError(f"cells: expected a whole number from 1 to {MOST_CELLS}, got {cells!r}")
    spans = [
        _checked_span(name, given, size, whole_side)
        for name, given, size, whole_side in zip(
            ("rows", "cols"), (rows, cols), asked.shape, _extent(asked.one), strict=True
        )
    ]
    longest = max(stop - start for start, stop in spans)
    block = 1 << (-(-longest // count) - 1).bit_length()
    wide = [
        (start // block * block, min(-(-stop // block) * block, size))
        for (start, stop), size in zip(spans, asked.shape, strict=True)
    ]
    return Place(wide[0], wide[1], block)


def checked_index(name: str, value: Any, size: int) -> int:
    """A whole number in [0, size)."""
    found = whole(value)
    if found is None or not 0 <= found < size:
        raise InputError(f"{name}: expected a whole number from 0 to {size - 1}, got {value!r}")
    return found


def _extent(one: AttentionMap) -> tuple[Span, Span]:
    """All queries and keys, without padding at either end."""
    if isinstance(one, TokenMap):
        return one.extent(0)
    return (0, one.shape[2]), (0, one.shape[3])


def _checked_span(name: str, given: Any, size: int, whole_side: Span) -> Span:
    if given is None:
        return whole_side
    found = whole_numbers(given)
    if found is None or len(found) != 2 or not 0 <= found[0] < found[1] <= size:
        raise InputError(f"{name}: expected (first, stop) with 0 <= first < stop <= {size}, got {given!r:.80}")
    return found[0], found[1]


def _cells(part: AttentionMap, cols: slice, scales: Scales) -> Tensor:
    """The numbers of all rows of a map and some columns, one by one; NaN where they cannot be seen."""
    rows = slice(0, part.shape[2])
    tile = part.tile(rows, cols)[0, 0]
    if scales.rows is not None:
        tile *= scales.rows[:, None]
    if scales.cols is not None:
        tile *= scales.cols[cols]
    return tile.masked_fill_(~part.visible(rows, cols)[0, 0], torch.nan).float()
