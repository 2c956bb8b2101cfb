"""How large a page of token links can get, known before anything is run, and what fits into one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import numpy as np

from interp.errors import InputError
from interp.views.token_html import FALLBACK_ROWS, ROW_BYTES, TIMES, fixed_bytes, in_text
from interp.views.token_payload import as_json
from interp.views.token_text import shown

LIMIT = 1_000_000
"""Bytes of a page: fewer than so many."""
SIZES = (256, 224, 192, 160, 128, 112, 96, 80, 64)
"""Windows that are tried where the size is left open, largest first."""
HEAD_BYTES = 400
"""The fields of a head in JSON: their names, punctuation and numbers, without its name and its arrays."""


@dataclass(frozen=True, eq=False)
class Room:
    """What is known of a page before the run.

    texts, special: of all tokens of the sequence; start: the window's first; top: links of a token; names: of the heads that
    might be shown; is_causal: whether no token looks ahead; words: title, notes and whatever else stands in the page
    """

    texts: Sequence[str]
    special: np.ndarray
    start: int
    top: int
    names: Sequence[str]
    is_causal: bool
    words: Sequence[str]
    _cache: dict[int, tuple[int, list[int]]] = field(default_factory=dict, init=False)

    def bound(self, heads: int, size: int) -> int:
        """Most bytes of the page of the first ``heads`` heads over a window of ``size`` tokens."""
        n = min(size, len(self.texts) - self.start)
        top = min(self.top, len(self.texts))
        cells = n * (n + 1) // 2 if self.is_causal else n * n
        arrays = (cells, *[4 * n * top] * 3, 2 * n * top, 4 * n * top, 20 * n, 4 * n)
        of_head = HEAD_BYTES + sum(4 * math.ceil(count / 3) for count in arrays)
        inside, outside = self._strings(n)
        strings = inside + outside[min(heads * n * top, len(outside) - 1)]
        # Places in ``strings`` of the window's tokens and of special ones, up to six digits each.
        places = 7 * (n + len({text for text, is_special in self._known if is_special}))
        fallback = sum(self._in_text[text] for text in self.texts[self.start : self.start + n])
        fallback += FALLBACK_ROWS * (ROW_BYTES + 2 * max(self._in_text.values()))
        words = sum(TIMES * _written(word) for word in (*self.words, *self.names[:heads]))
        return fixed_bytes() + heads * of_head + strings + places + fallback + words

    def heads_that_fit(self, size: int) -> int:
        """Of the heads, the first so many fit with a window of ``size`` tokens."""
        low, high = 0, len(self.names)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.bound(middle, size) < LIMIT else (low, middle - 1)
        return low

    def fit(self, size: int | None, *, all_heads: bool) -> tuple[int, int]:
        """How many of the heads to show, and the size of the window; all that is left open as large as it fits.

        all_heads: these were asked for, and none may be left out

        Raises:
            InputError: it does not fit; says how many heads and which size would.
        """
        wanted, text = len(self.names), len(self.texts) - self.start
        sizes = [size] if size is not None else sorted({min(each, text) for each in SIZES}, reverse=True)
        for each in sizes:
            if self.bound(wanted, each) < LIMIT:
                return wanted, each
        least = sizes[-1]
        heads = self.heads_that_fit(least)
        if heads and not all_heads:
            return heads, least
        smaller = self._size_that_fits(wanted, least)
        ways = [f"{heads} heads fit with size={least}" if heads else "", f"size={smaller} fits" if smaller else ""]
        raise InputError(
            f"heads, size: {wanted} heads over {min(least, text):,} tokens with top={self.top} would make a page of up to "
            f"{self.bound(wanted, least):,} bytes, and it may have {LIMIT:,}; "
            + (" and ".join(filter(None, ways)) or "lower top")
        )

    def _size_that_fits(self, heads: int, size: int) -> int:
        low, high = 0, size - 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.bound(heads, middle) < LIMIT else (low, middle - 1)
        return low

    @cached_property
    def _known(self) -> dict[tuple[str, bool], int]:
        """Bytes of every text of a token in JSON, with its comma. A special token's text may also be that of another."""
        pairs = set(zip(self.texts, self.special.tolist(), strict=True))
        return {pair: _written(shown(pair[0])) for pair in pairs}

    @cached_property
    def _in_text(self) -> dict[str, int]:
        """Bytes of every text of a token in HTML."""
        return {text: len(in_text(shown(text)).encode()) for text, _ in self._known}

    def _strings(self, n: int) -> tuple[int, list[int]]:
        """Bytes of the window's texts, each once; and of the longest 0, 1, 2, ... of those that stand outside of it alone."""
        if n not in self._cache:
            window = slice(self.start, self.start + n)
            inside = set(zip(self.texts[window], self.special[window].tolist(), strict=True))
            rest = sorted((size for pair, size in self._known.items() if pair not in inside), reverse=True)
            self._cache[n] = sum(self._known[pair] for pair in inside), list(accumulate(rest, initial=0))
        return self._cache[n]


def _written(text: str) -> int:
    return len(as_json(text).encode()) + 1
