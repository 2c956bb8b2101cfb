"""The sums that a pattern is scored by: by probes where it is made of offsets, labels or keys, else tile by tile over the map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.heads.chance import uniform_maps, uniform_stats
from interp_kernels import AttentionMap, KeyMass, LabelMatch, OffsetMass, Probe

if TYPE_CHECKING:
    from interp.inputs.batch import Batch
    from interp.models.hooked import HookedModel

TILE_CELLS = 1 << 22
"""Cells of one tile, over all sequences and heads: 16 MB in float32."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Cells:
    """A pattern D on a batch. One of offsets, labels, keys and tile is given.

    keep     [B, T], False at padding; positions of a sequence count from its first token that is none
    causal   cells above the diagonal are none
    bos, current  the first column, and the diagonal, do not count
    labels   of queries and of keys, [B, T] each, -1 at padding; strict: only j < i
    keys     bool [B, T]
    tile     from a sequence and positions i [r], j [c] to D [r, c]
    """

    keep: Tensor
    causal: bool
    bos: bool
    current: bool
    offsets: tuple[int, ...] | None = None
    labels: tuple[Tensor, Tensor] | None = None
    strict: bool = False
    keys: Tensor | None = None
    tile: Callable[[int, Tensor, Tensor], Tensor] | None = None

    @property
    def first(self) -> Tensor:
        """The first column of each sequence, [B]."""
        return self.keep.int().argmax(dim=1)

    @property
    def lengths(self) -> Tensor:
        return self.keep.sum(dim=1)


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over the cells that count, float64 on the CPU, [B, L, H] each; of the pattern and the length [B, 1, 1].

    attention  sum A
    both       sum A D
    pattern    sum |D|, 0 where the pattern has no cell
    apart      sum |A - D|
    length     T
    """

    attention: Tensor
    both: Tensor
    pattern: Tensor
    apart: Tensor
    length: Tensor


Road = tuple[Sums, Sums]
"""Of the model, and of uniform attention (one head)."""


def by_probes(model: HookedModel, batch: Batch, layers: Sequence[int], cells: Cells, beyond_context: bool) -> Road:
    """One forward run, O(T) memory: the masses of each row on all keys, on the first, on itself and on the pattern."""
    assert batch.ids is not None
    first = torch.zeros_like(cells.keep, dtype=torch.float32)
    first[torch.arange(len(first)), cells.first] = 1.0
    weights = [cells.keep.float(), first]
    if cells.keys is not None:
        weights.append(cells.keys * (1 - first) if cells.bos else cells.keys.float())
    probes: list[Probe] = [
        KeyMass(torch.stack(weights, dim=-1), name="keys", queries=cells.keep),
        OffsetMass((0,), name="current", queries=cells.keep),
    ]
    if cells.offsets is not None:
        probes.append(OffsetMass(cells.offsets, name="pattern", queries=cells.keep))
    if cells.labels is not None:
        a, b = cells.labels
        b = torch.where(first > 0, -1, b) if cells.bos else b
        probes.append(LabelMatch(a, b, strict=cells.strict, name="pattern", queries=cells.keep))
    capture = model.capture(batch, probes, layers=layers, beyond_context=beyond_context)
    of_model = [{name: values[layer] for name, values in capture.stats.items()} for layer in layers]
    uniform = uniform_stats(probes, [capture.masks[layer] for layer in layers], batch.ids)
    size = _size(cells)
    return _of_probes(of_model, cells, size), _of_probes(uniform, cells, size)


def _of_probes(by_layer: Sequence[dict[str, Tensor]], cells: Cells, size: Tensor) -> Sums:
    attention, both = [], []
    rows = torch.arange(len(cells.keep))
    for stats in by_layer:
        keys, current = stats["keys"].double(), stats["current"].double()[..., 0]
        total = keys[..., 0].nansum(dim=-1)
        if cells.bos:
            total = total - keys[..., 1].nansum(dim=-1)
        if cells.current:
            total = total - current.nansum(dim=-1)
            if cells.bos:
                total = total + current[rows, :, cells.first]
        attention.append(total)
        both.append(_on_pattern(stats, current, cells))
    a, ad = (torch.stack(x, dim=1).cpu() for x in (attention, both))
    d = size.double().cpu()[:, None, None]
    return Sums(a, ad, d, a - 2 * ad + d, cells.lengths.double().cpu()[:, None, None])


def _on_pattern(stats: dict[str, Tensor], current: Tensor, cells: Cells) -> Tensor:
    """sum A D over the cells that count, [B, H]."""
    rows = torch.arange(len(cells.keep))
    if cells.offsets is not None:
        total = torch.zeros(current.shape[:2], dtype=torch.float64, device=current.device)
        for number, d in enumerate(cells.offsets):
            if d == 0 and cells.current:
                continue
            mass = stats["pattern"][..., number].double()
            total = total + mass.nansum(dim=-1)
            if cells.bos:  # the pair whose key is the first
                at = cells.first + d
                exists = (d >= 0) & (d < cells.lengths)
                cell = mass[rows, :, at.clamp(0, mass.shape[-1] - 1)]
                total = total - torch.where(exists[:, None], cell, 0)
        return total
    if cells.labels is not None:
        a, b = cells.labels
        mass, is_own = stats["pattern"].double(), (a == b) & (a >= 0) & (not cells.strict)
        own = is_own & (torch.arange(a.shape[1], device=a.device) != cells.first[:, None]) if cells.bos else is_own
    else:
        assert cells.keys is not None
        mass, own = stats["keys"][..., 2].double(), cells.keys
        if cells.bos:
            own = own & (torch.arange(own.shape[1], device=own.device) != cells.first[:, None])
    total = mass.nansum(dim=-1)
    return total - (current.nan_to_num() * own[:, None]).sum(dim=-1) if cells.current else total


def _size(cells: Cells) -> Tensor:
    """How many cells of the pattern count, [B]."""
    counts = []
    for number, kept in enumerate(cells.keep):
        n = int(kept.sum())
        place = torch.arange(n, device=kept.device)
        if cells.offsets is not None:
            of_offsets = [(max(0, n - abs(d)), d) for d in cells.offsets]
            count = sum(
                size - int(cells.bos and 0 <= d < n) for size, d in of_offsets if not (d == 0 and cells.current)
            )
        elif cells.labels is not None:
            a, b = (side[number, kept] for side in cells.labels)
            b = torch.where(place > 0, b, -1) if cells.bos else b
            count = _matches(a, b, upto=cells.causal or cells.strict)
            if cells.current or cells.strict:
                count -= int(((a == b) & (a >= 0)).sum())
        else:
            assert cells.keys is not None
            keys = cells.keys[number, kept]
            keys = keys & (place > 0) if cells.bos else keys
            queries = n - place if cells.causal else torch.full_like(place, n)
            count = int(((queries - int(cells.current)) * keys).sum())
        counts.append(count)
    return torch.tensor(counts)


def _matches(a: Tensor, b: Tensor, *, upto: bool) -> int:
    """Pairs with a_i = b_j and neither negative, with ``upto`` those with j <= i; by sorting, in O(n log n)."""
    n = len(a)
    _, codes = torch.unique(torch.cat([a, b]), return_inverse=True)  # small, so that a label and a place fit one number
    keys = (codes[n:] * n + torch.arange(n, device=a.device))[b >= 0].sort().values
    place = torch.arange(n, device=a.device) if upto else torch.full_like(a, n - 1)
    low = torch.searchsorted(keys, codes[:n] * n)
    high = torch.searchsorted(keys, codes[:n] * n + place, right=True)
    return int((high - low)[a >= 0].sum())


def by_tiles(model: HookedModel, batch: Batch, layers: Sequence[int], cells: Cells, beyond_context: bool) -> Road:
    """One forward run whose queries, keys and values are kept; then tile by tile, each tile of the pattern made once."""
    assert batch.ids is not None
    maps = model.maps(batch, layers, beyond_context=beyond_context)
    of_model = [maps[layer] for layer in layers]
    uniform = uniform_maps([lazy.operands.mask for lazy in of_model], batch.ids)
    size = batch.ids.shape[1]
    heads = max(lazy.shape[1] for lazy in of_model)
    side = max(16, min(size, int((TILE_CELLS / (len(batch.ids) * heads)) ** 0.5)))
    totals = [torch.zeros(4, len(batch.ids), len(layers), h, dtype=torch.float64) for h in (heads, 1)]
    for top in range(0, size, side):
        for left in range(0, top + side if cells.causal else size, side):
            rows, cols = slice(top, min(size, top + side)), slice(left, min(size, left + side))
            if cols.start >= size:
                break
            d, counts = _tile(cells, rows, cols)
            for total, lazies in zip(totals, (of_model, uniform), strict=True):
                for at, lazy in enumerate(lazies):
                    total[:, :, at, : lazy.shape[1]] += _of_tile(lazy, rows, cols, d, counts)
    length = cells.lengths.double().cpu()[:, None, None]
    of_heads = [(total[0], total[1], total[2][:, :1, :1], total[3]) for total in totals]
    return Sums(*of_heads[0], length), Sums(*of_heads[1], length)


def _tile(cells: Cells, rows: slice, cols: slice) -> tuple[Tensor, Tensor]:
    """D and which cells count, [B, 1, r, c] each."""
    assert cells.tile is not None
    device = cells.keep.device
    row, col = (torch.arange(x.start, x.stop, device=device) for x in (rows, cols))
    shape = (len(cells.keep), len(row), len(col))
    d, counts = (
        torch.zeros(shape, dtype=torch.float64, device=device),
        torch.zeros(shape, dtype=torch.bool, device=device),
    )
    for number, kept in enumerate(cells.keep):
        is_row, is_col = kept[row], kept[col]
        i, j = (place[of] - cells.first[number] for place, of in ((row, is_row), (col, is_col)))
        if not len(i) or not len(j):
            continue
        inside = torch.ones(len(i), len(j), dtype=torch.bool, device=device)
        if cells.causal:
            inside &= j[None] <= i[:, None]
        if cells.bos:
            inside &= j[None] > 0
        if cells.current:
            inside &= j[None] != i[:, None]
        places = is_row.nonzero(), is_col.nonzero()[:, 0]
        d[number][places] = cells.tile(number, i, j).to(torch.float64)
        counts[number][places] = inside
    return d[:, None], counts[:, None]


def _of_tile(lazy: AttentionMap, rows: slice, cols: slice, d: Tensor, counts: Tensor) -> Tensor:
    """sum A, sum A D, sum |D|, sum |A - D| of a tile, [4, B, H]."""
    p = lazy.tile(rows, cols).double().nan_to_num() * counts
    d = d * counts
    sums = [
        p.sum((-1, -2)),
        (p * d).sum((-1, -2)),
        d.abs().sum((-1, -2)).expand(p.shape[:2]),
        (p - d).abs().sum((-1, -2)),
    ]
    return torch.stack(sums).cpu()
