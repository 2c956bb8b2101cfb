"""Where the tokens of a window of a text look, and who in the window looks at them: one head, in O(window^2 + T) memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from interp.errors import InputError, RunError
from interp.views.link_weighting import Weighting, check_weighting, reweighting
from interp.views.token_axis import TokenAxis, Tokens, axis_of
from interp.views.token_map import TokenMap
from interp_kernels import AttentionMap
from interp_kernels.backends.tiled.largest import largest
from interp_kernels.integers import whole

if TYPE_CHECKING:
    import pandas as pd

MOST_TOKENS, MOST_LINKS = 1024, 64
"""Of a window, and of a token."""
STRIP_CELLS = 1 << 21
"""Cells of the rows that are held at a time: 8 MB in float32, and a few times that while they are worked on."""


@dataclass(frozen=True, eq=False, repr=False)
class TokenLinks:
    """One head over a window of n tokens. Indices count the sequence's tokens, padding left out.

    start            the window's first token
    tokens           the texts of all T tokens of the sequence; special [T]: those that are no text
    weighting        what W is; see ``interp.views.link_weighting``
    weights          [n, n]: W_ij of queries i and keys j of the window
    visible          [n, n]: whether the mask lets i see j
    keys             [n, top]: the keys of each query's largest weights, over all T keys, larger first, equal ones by index;
                     -1 beyond the keys of weight above 0
    key_weights      [n, top]: their weights; 0 beyond
    queries          [n, top]: the queries of the window that look most at each key; -1 beyond those of weight above 0
    query_weights    [n, top]
    before, within, after
                     [n]: sum of W_ij over the keys before, in and after the window
    first            [n]: P_i0, the attention that goes to the first token, whatever the weighting
    received         [n]: sum of W_ij over the queries i of the window
    """

    head: int
    start: int
    tokens: Sequence[str]
    special: np.ndarray
    weighting: Weighting
    weights: np.ndarray
    visible: np.ndarray
    keys: np.ndarray
    key_weights: np.ndarray
    queries: np.ndarray
    query_weights: np.ndarray
    before: np.ndarray
    within: np.ndarray
    after: np.ndarray
    first: np.ndarray
    received: np.ndarray

    @property
    def stop(self) -> int:
        """The token after the window's last one."""
        return self.start + len(self.weights)

    def __repr__(self) -> str:
        return (
            f"TokenLinks(head {self.head}, tokens {self.start:,} to {self.stop - 1:,} of {len(self.tokens):,}, "
            f"{self.weighting}, top {self.keys.shape[1]})"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row for each query and one of its strongest keys.

        Columns: query, query_token, rank (from 1), key, key_token, weight, is_outside (of the window).
        """
        import pandas as pd

        row, rank = np.nonzero(self.keys >= 0)
        query, key = self.start + row, self.keys[row, rank]
        texts = np.array(self.tokens, dtype=object)
        return pd.DataFrame(
            {
                "query": query,
                "query_token": pd.Series(texts[query], dtype="str"),
                "rank": rank + 1,
                "key": key,
                "key_token": pd.Series(texts[key], dtype="str"),
                "weight": self.key_weights[row, rank],
                "is_outside": (key < self.start) | (key >= self.stop),
            }
        )


def token_links(
    lazy: AttentionMap,
    tokens: Tokens,
    *,
    head: int,
    start: int = 0,
    size: int = 256,
    top: int = 8,
    batch: int = 0,
    weighting: Weighting = "attention",
) -> TokenLinks:
    """One head's attention of the tokens [start, start + size), exact.

    Memory: O(size^2 + T), beside rows in strips of at most ``STRIP_CELLS`` cells. Time: O(size T), the scores of the window's
    queries with the keys that they can see.

    Args:
        lazy: the map of a self attention, as ``HookedModel.maps`` gives it.
        tokens: those of the sequence: an entry of ``Batch.token_rows``, or a string for each row of the map.
        head: query head, counted from 0.
        start: the window's first token, counted without padding. A window that reaches beyond the text ends with it.
        size: tokens of the window, up to 1,024.
        top: links of each token that are listed, up to 64.
        batch: which sequence of the map.
        weighting: "attention" P_ij, "value_norm" or "without_first"; see ``interp.views.link_weighting``.

    Raises:
        InputError: arguments that do not fit the map or one another, or a map that is not square (cross attention, a cache).
        RunError: the map holds NaN.
    """
    check_map(lazy, head=head, batch=batch)
    check_weighting(weighting)
    axis = axis_of(tokens, lazy.shape[3])
    start, stop = window_of(start, size, len(axis))
    checked_count("top", top, MOST_LINKS)
    one = lazy.head(batch, head)
    n, count = stop - start, min(top, len(axis))
    dtype = np.float64 if one.lse.dtype == torch.float64 else np.float32
    weights, first = np.zeros((n, n), dtype), np.zeros(n, dtype)
    before, after = np.zeros(n, dtype), np.zeros(n, dtype)
    keys, key_weights = np.full((n, count), -1), np.zeros((n, count), dtype)
    reweighted = reweighting(one, int(axis.columns[0]), weighting)
    for rows, seen, p, column in _strips(one, axis, start, stop):
        if not bool(torch.isfinite(p).all()):
            raise RunError(
                f"the map of head {head} holds NaN in the rows of tokens {start + rows.start} to {start + rows.stop - 1}"
            )
        if seen.start == 0:
            first[rows] = p[:, int(axis.columns[0]) - column].cpu()
        w = reweighted(p, column)
        own = axis.columns[seen] - column
        if w.shape[1] != len(own):
            w = w[:, torch.from_numpy(own).to(w.device)]
        values, places = largest(w, min(count, w.shape[1]))
        width = values.shape[1]
        key_weights[rows, :width] = values.cpu()
        keys[rows, :width] = np.where(values.cpu() > 0, places.cpu() + seen.start, -1)
        lo, hi = (min(max(x - seen.start, 0), w.shape[1]) for x in (start, stop))
        before[rows] = w[:, :lo].sum(dim=1, dtype=torch.float64).cpu()
        after[rows] = w[:, hi:].sum(dim=1, dtype=torch.float64).cpu()
        weights[rows, lo + seen.start - start : hi + seen.start - start] = w[:, lo:hi].cpu()
    values, places = (x.numpy() for x in largest(torch.from_numpy(weights.T.copy()), min(count, n)))
    return TokenLinks(
        head=head,
        start=start,
        tokens=axis.texts,
        special=axis.special,
        weighting=weighting,
        weights=weights,
        visible=_visible(one, axis.columns[start:stop]),
        keys=keys,
        key_weights=key_weights,
        queries=np.where(values > 0, places + start, -1),
        query_weights=values,
        before=before,
        within=weights.sum(axis=1, dtype=np.float64).astype(dtype),
        after=after,
        first=first,
        received=weights.sum(axis=0, dtype=np.float64).astype(dtype),
    )


def check_is_map(lazy: object) -> None:
    """Refuse what is no lazy map.

    Raises:
        InputError
    """
    if not isinstance(lazy, AttentionMap):
        raise InputError(f"map: expected an AttentionMap, as HookedModel.maps gives it, got {type(lazy).__name__}")


def check_map(lazy: AttentionMap, *, head: object, batch: object) -> None:
    """Refuse what is no map of a self attention, or has no such head or sequence.

    Raises:
        InputError: with what was expected.
    """
    check_is_map(lazy)
    sequences, heads, queries, keys = lazy.shape
    if queries != keys or lazy.operands.offset != 0:
        raise InputError(
            f"map: expected one row of tokens that look at one another, got {queries:,} queries over {keys:,} keys (cross "
            "attention, or queries after a cache); take rows, tile or topk of the map"
        )
    if isinstance(lazy, TokenMap) and lazy.origin is not None and lazy.origin.is_cross:
        raise InputError(
            f"map: expected one row of tokens that look at one another, got layer {lazy.origin.layer!r}, whose queries look at "
            "another input; take plot, region or topk of the map"
        )
    if lazy.output_gradient is not None:
        raise InputError("map: it is weighted by its gradient, and its rows are no shares; give the map itself")
    for name, value, count in (("head", head, heads), ("batch", batch, sequences)):
        found = whole(value)
        if found is None or not 0 <= found < count:
            raise InputError(f"{name}: expected a number from 0 to {count - 1}, got {value!r}")


def window_of(start: object, size: object, tokens: int) -> tuple[int, int]:
    """First token and end of the window of a text of so many tokens.

    Raises:
        InputError: no numbers, none of the text's tokens, or too many.
    """
    found = whole(start)
    if found is None or not 0 <= found < tokens:
        raise InputError(f"start: expected a token from 0 to {tokens - 1:,}, got {start!r}")
    return found, min(found + checked_count("size", size, MOST_TOKENS), tokens)


def checked_count(name: str, value: object, most: int) -> int:
    """``value`` as an int from 1 to ``most``.

    Raises:
        InputError: it is none.
    """
    found = whole(value)
    if found is None or not 1 <= found <= most:
        raise InputError(f"{name}: expected a number from 1 to {most:,}, got {value!r}")
    return found


def _strips(one: AttentionMap, axis: TokenAxis, start: int, stop: int) -> Iterator[tuple[slice, slice, Tensor, int]]:
    """Rows of the window, a few at a time, over the keys that they may see.

    Gives the rows (counted in the window), the tokens among those keys, P [rows, keys], and the column that P begins with.
    """
    mask, columns = one.operands.mask, axis.columns
    lo, hi = mask.key_span(int(columns[start]), int(columns[stop - 1]), one.shape[3])
    seen = slice(int(np.searchsorted(columns, lo)), int(np.searchsorted(columns, hi)))
    if seen.start == seen.stop:
        return
    lo, hi = int(columns[seen.start]), int(columns[seen.stop - 1]) + 1
    step = max(1, STRIP_CELLS // (hi - lo))
    for row in range(start, stop, step):
        wanted = columns[row : min(row + step, stop)]
        rows = slice(row - start, row - start + len(wanted))
        if wanted[-1] - wanted[0] + 1 == len(wanted):
            p = one.tile(slice(int(wanted[0]), int(wanted[-1]) + 1), slice(lo, hi))
        else:
            p = one.rows(torch.from_numpy(wanted))[..., lo:hi]
        yield rows, seen, p[0, 0], lo


def _visible(one: AttentionMap, columns: np.ndarray) -> np.ndarray:
    """Whether the mask lets each of these queries see each of these keys, [n, n]."""
    at = torch.from_numpy(columns).to(one.lse.device)
    allowed = one.operands.mask.allows(at[:, None], at[None, :], torch.zeros(1, 1, dtype=torch.int64, device=at.device))
    return allowed.expand(len(columns), len(columns)).cpu().numpy().copy()
