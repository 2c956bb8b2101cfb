"""Zooming into one head's map: levels of squares that are made once, so that a step of the zoom costs next to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from interp.errors import InputError
from interp.sizes import readable
from interp.views.map_region import MapRegion
from interp.views.pooling import Op, Progress, Squares, pooled, reduced
from interp.views.region import CELLS, HeadView, Place, Span, placed
from interp.views.weighting import Scales, sinks_of
from interp_kernels import AttentionMap
from interp_kernels.integers import whole

MOST_SQUARES = 2048
"""Squares of the base level along a side: 16 MB."""


@dataclass(frozen=True, eq=False, repr=False)
class Pyramid:
    """One head's map in squares of block, 2 block, 4 block, ... cells; what is finer is scored again from the lazy map.

    asked   whose map it is, and which of its numbers
    block   side of the squares of the base level
    levels  float32 [R, C] each, the base first; NaN in squares without a visible cell
    scales  the factors of all rows and columns
    """

    asked: HeadView
    block: int
    levels: tuple[np.ndarray, ...]
    scales: Scales

    @classmethod
    def build(
        cls,
        map: AttentionMap,  # noqa: A002 - the word of the field
        head: int,
        *,
        batch: int = 0,
        op: Op = "mean",
        weighting: str = "weights",
        sinks: int | Sequence[int] | None = None,
        most: int = MOST_SQUARES,
        progress: Progress | None = None,
    ) -> Pyramid:
        """The levels of one head's map.

        The base has squares of the least power of two, from 2 on, of which at most ``most`` stand along a side. A square of a
        coarser level is made of four: their mean weighted by their visible cells, or their maximum, which is what pooling
        the map itself would give, the maximum to the last bit and the mean but for rounding.

        Time: every visible cell is scored once, of "no_sink" twice (``work`` of the map says how many), by the map's own pass; on
        a GPU, other numbers than "weights" by tiles. Memory: 4 most^2 bytes for the base and a third more for the other levels
        (22 MB with 2,048), beside two vectors; while it is built, twelve times the base (200 MB), whatever the length.

        Args:
            map: of one layer, such as ``model.maps(text)[3]``.
            head, batch, op, weighting, sinks: as in ``region``.
            most: squares along a side of the base, from 1 to 4,096.
            progress: called with (cells scored, cells in all) as it goes on; what it raises ends the work.

        Raises:
            InputError: an argument does not fit the map.
        """
        asked = HeadView.of(map, head, batch, op, weighting, sinks)
        size = whole(most)
        if size is None or not 1 <= size <= 4096:
            raise InputError(f"most: expected a whole number from 1 to 4096, got {most!r}")
        block = max(2, 1 << (-(-max(asked.shape) // size) - 1).bit_length())
        scales = asked.scales()
        base = pooled(asked.one, slice(0, asked.shape[1]), block, asked.op, scales, progress)
        levels = [base]
        while max(levels[-1].values.shape) > 1:
            levels.append(_coarser(levels[-1], asked.op))
        return cls(asked, block, tuple(level.values.cpu().numpy() for level in levels), scales)

    @property
    def nbytes(self) -> int:
        """Bytes of its levels and factors; the lazy map that it refers to is not counted."""
        vectors = [x.numel() * x.element_size() for x in (self.scales.rows, self.scales.cols) if x is not None]
        return sum(level.nbytes for level in self.levels) + sum(vectors)

    def place(self, rows: Span | None = None, cols: Span | None = None, cells: int = CELLS) -> Place:
        """Where the view of a rectangle lies, and the side of its squares."""
        return placed(self.asked, rows, cols, cells)

    def work(self, rows: Span | None = None, cols: Span | None = None, cells: int = CELLS) -> int:
        """Cells that have to be scored for a view: 0 where a level has its squares."""
        place = self.place(rows, cols, cells)
        return 0 if place.block >= self.block else self.asked.work(place)

    def region(self, rows: Span | None = None, cols: Span | None = None, cells: int = CELLS) -> MapRegion:
        """A rectangle of the map; see ``interp.views.region``.

        From a level where its squares are at least those of the base, else from the lazy map: then it has at most
        cells x block rows and columns, whatever the length of the text.
        """
        place = self.place(rows, cols, cells)
        if place.block < self.block:
            return self.asked.region(place, self.scales.of_rows(slice(*place.rows)))
        level = self.levels[(place.block // self.block).bit_length() - 1]
        down, across = (
            slice(start // place.block, -(-stop // place.block)) for start, stop in (place.rows, place.cols)
        )
        return self.asked.shown(place, level[down, across], self.scales.bound)

    def __repr__(self) -> str:
        rows, cols = self.asked.shape
        return (
            f"Pyramid({self.asked.name}, {rows:,} x {cols:,}, {self.asked.weighting.name}, {self.asked.op}, squares of "
            f"{self.block} and more, {readable(self.nbytes)})"
        )


def view(
    source: Pyramid | AttentionMap,
    head: int | None = None,
    *,
    batch: int | None = None,
    rows: Span | None = None,
    cols: Span | None = None,
    cells: int = CELLS,
    op: Op | None = None,
    weighting: str | None = None,
    sinks: int | Sequence[int] | None = None,
) -> MapRegion:
    """A rectangle of one head's map from whatever is at hand: its pyramid, or the lazy map.

    Args:
        source: a pyramid, which knows the others, or the map of a layer, of which ``head`` must be given.
        head, batch, rows, cols, cells, op, weighting, sinks: as in ``region``.

    Raises:
        InputError: an argument does not fit, or asks a pyramid for another head or other numbers than it holds.
    """
    asked = _asked(source, head, batch, op, weighting, sinks)
    if isinstance(source, Pyramid):
        return source.region(rows, cols, cells)
    return asked.region(placed(asked, rows, cols, cells))


def work(
    source: Pyramid | AttentionMap,
    head: int | None = None,
    *,
    batch: int | None = None,
    rows: Span | None = None,
    cols: Span | None = None,
    cells: int = CELLS,
    op: Op | None = None,
    weighting: str | None = None,
    sinks: int | Sequence[int] | None = None,
) -> int:
    """Cells of the map that ``view`` would score with these arguments: what it costs, before it is done.

    Of the whole map it is also what building its pyramid costs. docs/maps.md says how many a second that are.
    """
    asked = _asked(source, head, batch, op, weighting, sinks)
    if isinstance(source, Pyramid):
        return source.work(rows, cols, cells)
    place = placed(asked, rows, cols, cells)
    whole_rows = Place(place.rows, (0, asked.shape[1]), place.block)
    return asked.work(place) + (asked.work(whole_rows) if asked.weighting.name == "no_sink" else 0)


def _asked(
    source: Pyramid | AttentionMap,
    head: int | None,
    batch: int | None,
    op: Op | None,
    weighting: str | None,
    sinks: int | Sequence[int] | None,
) -> HeadView:
    if not isinstance(source, Pyramid):
        if head is None:
            raise InputError("head: expected a query head of the map, counted from 0, got None")
        return HeadView.of(source, head, batch or 0, op or "mean", weighting or "weights", sinks)
    held = source.asked
    known = {"head": held.head, "batch": held.batch, "op": held.op, "weighting": held.weighting.name}
    given = {"head": head, "batch": batch, "op": op, "weighting": weighting}
    other = {name: value for name, value in given.items() if value is not None and value != known[name]}
    if sinks is not None and sinks_of(held.one, held.weighting.name, sinks) != held.sinks:
        other["sinks"] = sinks
    if other:
        raise InputError(f"view: {source!r} was asked for {other}; build a pyramid for these, or give the map")
    return held


def _coarser(level: Squares, op: Op) -> Squares:
    """Squares of twice the side, each of up to four of the level's."""
    values = level.values.nan_to_num(0.0)
    counts = reduced(level.counts, 2, "mean")
    if op == "max":
        found = reduced(values, 2, "max")
    else:
        found = (reduced(values.double() * level.counts, 2, "mean") / counts.clamp(min=1)).float()
    return Squares(found.masked_fill(counts == 0, torch.nan), counts)
