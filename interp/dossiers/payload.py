"""What ``passages.js`` is given: JSON of plain strings and numbers.

passages   a list, each
  title, note   text for people
  start         position of the first token that is shown
  tokens        their texts, as ``interp.views.token_text.shown`` gives them
  strongest     the position whose links are shown first, None where there is no link
  edges         query, key, round(1000 weight); query, key, ...: those of the tokens that are shown
  outside       position -> text of keys that are not shown
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from interp.dossiers.head import ShownPassage
from interp.views.token_text import shown

WINDOW = 160
"""Tokens of a passage that are shown."""
BEFORE = 120
"""Of them so many before the query of the strongest link: most links lead back."""


def passages_payload(passages: Sequence[ShownPassage], by: str, window: int = WINDOW) -> dict[str, Any]:
    """A window of each passage, around its strongest link."""
    return {"passages": [_passage(passage, by, window) for passage in passages]}


def _passage(passage: ShownPassage, by: str, window: int) -> dict[str, Any]:
    count, strongest = len(passage.tokens), passage.strongest
    focus = None if strongest is None else strongest[0]
    start = max(0, min((focus or 0) - BEFORE * window // WINDOW, count - window))
    stop = min(count, start + window)
    edges = passage.edges
    inside = edges[(edges["query"] >= start) & (edges["query"] < stop)]
    thousandths = (inside["weight"].to_numpy() * 1000).round().astype(int)
    flat = [
        each
        for row in zip(inside["query"].tolist(), inside["key"].tolist(), thousandths.tolist(), strict=True)
        for each in row
    ]
    keys = {key for key in inside["key"].tolist() if not start <= key < stop}
    part = "" if stop - start == count else f", shown from {start:,} to {stop - 1:,}"
    return {
        "title": f"{passage.group}, {passage.rank + 1}",
        "note": (
            f"· {by} {passage.value:.4g} · text {passage.text:,}, from its token {passage.start:,}: {count:,} positions{part}"
        ),
        "start": start,
        "tokens": [shown(token) for token in passage.tokens[start:stop]],
        "strongest": focus,
        "edges": flat,
        "outside": {str(key): shown(passage.tokens[key]) for key in sorted(keys)},
    }
