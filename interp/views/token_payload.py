"""What the widget in a page is given: a JSON object of the links of some heads over one window. ``token_view.js`` reads it.

    title, window, notes     text for people
    start, length            the window's first token, and how many the text has
    strings                  texts of tokens, as they are shown; each once
    special                  which of ``strings`` are of tokens that are no text
    tokens                   of each token of the window, its place in ``strings``
    top                      links of each token, at most
    weighting                what the weights are, in words
    heads                    name; and in base64, little endian, of n tokens:
      tile       uint8 [n, n], or its lower triangle row by row where ``is_packed``: round(255 sqrt(W / scale))
      scale      the tile's largest weight; error: by how much a weight of the tile is wrong at most
      keys       int32 [n, top] tokens of the text, -1 for none; key_strings int32 [n, top] their places in ``strings``
      weights    float32 [n, top], exact
      queries    uint16 [n, top] tokens of the window, 65535 for none; query_weights float32 [n, top], exact
      sums       float32 [5, n]: before, within and after the window, attention to the first token, received
      seen       uint16 [2, n]: the first key of the window that a query may see and the one after the last; 0, 0 for none

The square root keeps small weights apart, as the colours do: the steps are fine near 0 and scale / 255 at the largest weight.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from interp.views.link_weighting import MEANING
from interp.views.token_links import TokenLinks
from interp.views.token_text import shown

STEPS, NO_QUERY = 255, 65535
TO_ESCAPE = re.compile(
    "[<>&\\u007f-\\u00a0\\u00ad\\u0600-\\u0605\\u061c\\u200b-\\u200f\\u2028-\\u202f\\u2060-\\u206f\\ud800-\\udfff\\ufeff]"
)
"""In JSON inside of a script: what could end it, what editors hide, and halves of pairs, which no encoding can write."""


def payload(
    links: Mapping[str, TokenLinks], *, title: str, window: str, notes: Sequence[str] = (), head: str | None = None
) -> dict[str, Any]:
    """The links of some heads over one window of one text, by the head's name; see the top of the file. head: shown first."""
    one = next(iter(links.values()))
    table = _Strings(one)
    tokens = table.places(np.arange(one.start, one.stop))
    heads = [_head(name, each, table) for name, each in links.items()]
    return {
        "title": title,
        "window": window,
        "notes": list(notes),
        "start": one.start,
        "length": len(one.tokens),
        "tokens": tokens.tolist(),
        "top": one.keys.shape[1],
        "weighting": MEANING[one.weighting],
        "head": head or next(iter(links)),
        "heads": heads,
        "strings": table.strings,
        "special": table.special,
    }


def as_json(content: Any) -> str:
    """``content`` as JSON that may stand inside of a script element."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return TO_ESCAPE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def quantised(weights: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Weights as steps of the square root's scale (uint8), the scale, and the largest error: at most scale / 255."""
    exact = weights.astype(np.float64)
    scale = float(exact.max(initial=0.0))
    if scale == 0.0:
        return np.zeros(weights.shape, np.uint8), 0.0, 0.0
    steps = np.rint(STEPS * np.sqrt(exact / scale)).astype(np.uint8)
    error = float(np.abs(scale * (steps / STEPS) ** 2 - exact).max())
    return steps, scale, error


class _Strings:
    """The texts of the tokens that a page shows, each once."""

    def __init__(self, links: TokenLinks) -> None:
        self.tokens, self.is_special = links.tokens, links.special
        self.strings: list[str] = []
        self.special: list[int] = []
        self._known: dict[tuple[str, bool], int] = {}

    def places(self, tokens: np.ndarray) -> np.ndarray:
        """Where the texts of these tokens stand in ``strings``, 0 for -1."""
        wanted, back = np.unique(tokens, return_inverse=True)
        found = np.array([0 if token < 0 else self._place(int(token)) for token in wanted], dtype=np.int64)
        return found[back].reshape(tokens.shape)

    def _place(self, token: int) -> int:
        key = self.tokens[token], bool(self.is_special[token])
        if key not in self._known:
            self._known[key] = len(self.strings)
            self.strings.append(shown(key[0]))
            if key[1]:
                self.special.append(self._known[key])
        return self._known[key]


def _head(name: str, links: TokenLinks, table: _Strings) -> dict[str, Any]:
    steps, scale, error = quantised(links.weights)
    is_packed = not bool(np.triu(steps, 1).any())
    tile = steps[np.tril_indices(len(steps))] if is_packed else steps
    queries = np.where(links.queries < 0, NO_QUERY, links.queries - links.start)
    sums = np.stack([links.before, links.within, links.after, links.first, links.received])
    return {
        "name": name,
        "is_packed": is_packed,
        "scale": scale,
        "error": error,
        "tile": _base64(tile, "u1"),
        "keys": _base64(links.keys, "<i4"),
        "key_strings": _base64(table.places(links.keys), "<i4"),
        "weights": _base64(links.key_weights, "<f4"),
        "queries": _base64(queries, "<u2"),
        "query_weights": _base64(links.query_weights, "<f4"),
        "sums": _base64(sums, "<f4"),
        "seen": _base64(_seen(links.visible), "<u2"),
    }


def _seen(visible: np.ndarray) -> np.ndarray:
    """First visible key of each row and the one after the last, [2, n]; 0, 0 for none."""
    n = visible.shape[1]
    some = visible.any(axis=1)
    first = np.where(some, visible.argmax(axis=1), 0)
    end = np.where(some, n - visible[:, ::-1].argmax(axis=1), 0)
    return np.stack([first, end])


def _base64(values: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode("ascii")
