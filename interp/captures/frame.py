"""A capture as a tidy table: one row for each number, with the layer, head and position that it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp.captures.capture import Capture, Side
from interp.errors import InputError
from interp.models.layers import LayerKey

MOST_ROWS = 20_000_000
"""Rows of the largest table that is made: about 1.5 GB."""

COLUMNS = (
    "statistic",
    "layer",
    "head",
    "kv_head",
    "batch",
    "query",
    "token",
    "key",
    "key_token",
    "query_block",
    "key_block",
    "column",
    "value",
)
"""Columns in their order; those are there that the statistics have."""

TEXTS = ("statistic", "token", "key_token")


def capture_frame(capture: Capture, name: str | None = None) -> pd.DataFrame:
    """One row for each number of the statistic called ``name``, or of all of them.

    query and key are positions, token and key_token the texts there, column the offset, left edge of a bin, rank or dimension;
    of statistics per KV head only kv_head is given. Padding has no rows. With all statistics a column ``statistic`` comes first,
    and what one of them does not have is missing there. Texts are categories, layers too where they are not numbers.

    Raises:
        InputError: no such statistic, none at all, or more than ``MOST_ROWS`` rows.
    """
    names = list(capture.stats) if name is None else [name]
    if not names:
        raise InputError("this capture has no statistics, so there is nothing to tabulate; capture with probes")
    counts = {each: sum(value.numel() for value in capture[each].values()) for each in names}
    if sum(counts.values()) > MOST_ROWS:
        listed = ", ".join(f"{each}: {count:,}" for each, count in counts.items())
        raise InputError(
            f"the table would have {sum(counts.values()):,} rows ({listed}), at most {MOST_ROWS:,} are made; take one statistic "
            "with to_frame(name), fewer layers or heads, averages (a probe with reduce='mean'), or the tensors themselves: "
            "capture[name][layer]"
        )
    texts = _Texts(capture)
    parts = [_part(capture, each, layer, texts) for each in names for layer in capture[each]]
    present = {column for part in parts for column in part} - ({"statistic"} if name is not None else set())
    is_numbered = all(isinstance(layer, int) for layer in capture.layers)
    frame: dict[str, object] = {}
    for column in (column for column in COLUMNS if column in present):
        arrays = [part.get(column) for part in parts]
        sizes = [len(part["value"]) for part in parts]
        if column == "layer":
            codes = _filled(arrays, sizes, -1)
            frame[column] = np.array(capture.layers)[codes] if is_numbered else _category(codes, capture.layers)
        elif column in TEXTS:
            known = list(capture.stats) if column == "statistic" else texts.known
            frame[column] = _category(_filled(arrays, sizes, -1), known)
        elif all(array is not None for array in arrays):
            frame[column] = np.concatenate([array for array in arrays if array is not None])
        else:
            missing = np.concatenate([np.full(n, a is None) for a, n in zip(arrays, sizes, strict=True)])
            values = _filled(arrays, sizes, 0)
            if np.issubdtype(values.dtype, np.floating):
                frame[column] = np.where(missing, np.nan, values)
            else:
                frame[column] = pd.arrays.IntegerArray(values.astype(np.int64), missing)
    return pd.DataFrame(frame)


class _Texts:
    """Every token of a capture once, and the number of each position's."""

    def __init__(self, capture: Capture) -> None:
        sides = [side(layer) for layer in capture.layers for side in (capture.queries, capture.keys)]
        different = {id(side.tokens): side.tokens for side in sides}
        self.known = sorted({token for tokens in different.values() for row in tokens for token in row})
        self._number = {token: number for number, token in enumerate(self.known)}
        self._codes: dict[int, np.ndarray] = {}

    def codes(self, side: Side, positions: int) -> np.ndarray | None:
        """[B, T], -1 at padding; None where the tokens of that side are not known, or are not those of the statistic."""
        if side.ids is None or not side.tokens or side.ids.shape[1] != positions:
            return None
        if id(side.tokens) not in self._codes:
            kept = _kept(side)
            kept = np.ones(tuple(side.ids.shape), dtype=bool) if kept is None else kept
            codes = np.full(kept.shape, -1)
            codes[kept] = [self._number[token] for row in side.tokens for token in row]
            self._codes[id(side.tokens)] = codes
        return self._codes[id(side.tokens)]


def _part(capture: Capture, name: str, layer: LayerKey, texts: _Texts) -> dict[str, np.ndarray]:
    """Columns of one statistic in one layer; layers and texts by number."""
    if name not in capture.statistics:
        raise InputError(
            f"the axes of {name!r} are not known, so it cannot be tabulated; take capture[{name!r}][layer]"
        )
    meaning, how = capture.statistics[name], capture.layer(layer)
    value = _array(capture[name][layer])
    index = {
        axis: np.broadcast_to(_along(np.arange(size), number, value.ndim), value.shape)
        for number, (axis, size) in enumerate(zip(meaning.axes, value.shape, strict=True))
    }
    columns: dict[str, np.ndarray] = {}
    shown = np.ones(value.shape, dtype=bool)
    for axis, side, text in (("query", capture.queries(layer), "token"), ("key", capture.keys(layer), "key_token")):
        if axis not in index:
            continue
        kept = _kept(side)
        if kept is not None and kept.shape[1] == value.shape[meaning.axes.index(axis)]:
            shown &= kept[index["batch"], index[axis]]
        codes = texts.codes(side, value.shape[meaning.axes.index(axis)])
        if codes is not None:
            columns[text] = codes[index["batch"], index[axis]]
        columns[axis] = index[axis] + side.first
    if "head" in index:
        columns["head"] = np.array(how.heads)[index["head"]]
        columns["kv_head"] = np.array([how.kv_head(head) for head in how.heads])[index["head"]]
    elif "kv_head" in index:
        columns["kv_head"] = np.array(how.kv_heads_read)[index["kv_head"]]
    if "column" in index:
        named = index["column"] if meaning.columns is None else np.array(meaning.columns)[index["column"]]
        columns["column"] = named
    columns |= {axis: index[axis] for axis in ("batch", "query_block", "key_block") if axis in index}
    columns["statistic"] = np.broadcast_to(list(capture.stats).index(name), value.shape)
    columns["layer"] = np.broadcast_to(capture.layers.index(layer), value.shape)
    columns["value"] = value
    return {column: array[shown] for column, array in columns.items()}


def _category(codes: np.ndarray, names: Sequence[object]) -> pd.Categorical[Any]:
    """Texts by number; -1 is missing."""
    return pd.Categorical.from_codes(codes, dtype=pd.CategoricalDtype(list(names)))


def _along(values: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    return values.reshape([-1 if number == axis else 1 for number in range(ndim)])


def _array(value: Tensor) -> np.ndarray:
    # numpy has no bfloat16.
    return (value.float() if value.dtype == torch.bfloat16 else value).cpu().numpy()


def _kept(side: Side) -> np.ndarray | None:
    return None if side.keep is None else side.keep.cpu().numpy()


def _filled(arrays: Sequence[np.ndarray | None], sizes: Sequence[int], missing: int) -> np.ndarray:
    return np.concatenate([np.full(n, missing) if a is None else a for a, n in zip(arrays, sizes, strict=True)])
