"""The HTML of a token view: its script and style with the payload, and what is read where no script runs. Works offline."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib import resources
from typing import Any

import numpy as np

from interp.views.token_links import TokenLinks
from interp.views.token_payload import as_json
from interp.views.token_text import shown

FALLBACK_ROWS, ROWS_OF_HEAD = 24, 6
"""Links in the table that stands where no script runs, and at most of one head."""
ROW_BYTES = 160
"""Of a row of that table, without the texts of its tokens and the name of its head."""
TIMES = 4 + FALLBACK_ROWS
"""A text for people, or the name of a head, stands at most so often in a page."""
BESIDE = 3000
"""Bytes of what the page says of its window, and of the other fields of the payload."""
EXPLANATION = (
    "Attention weight shows where a head reads, not why the model answers as it does: by itself it is no explanation."
)


@cache
def script() -> str:
    """token_view.js, which puts ``interpTokenView`` on the window."""
    return resources.files("interp.views").joinpath("token_view.js").read_text(encoding="utf-8")


@cache
def style() -> str:
    """token_view.css"""
    return resources.files("interp.views").joinpath("token_view.css").read_text(encoding="utf-8")


def fragment(content: Mapping[str, Any], links: Mapping[str, TokenLinks]) -> str:
    """The widget as a piece of HTML for the output of a notebook's cell. Several may stand on one page.

    Where scripts are not run (GitHub, an untrusted notebook) the text and a table of the strongest links are read.
    """
    text = as_json(content)
    # By its content: a notebook that is run again is the same file again.
    mark = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"""<style>{style()}</style>
<div data-interp-token-view="{mark}">
{_fallback(content, links)}
</div>
<script>
{script()}
{{
  const payload = {text};
  for (const place of document.querySelectorAll('[data-interp-token-view="{mark}"]:not([data-mounted])')) {{
    window.interpTokenView.mount(place, payload);
  }}
}}
</script>
"""


def page(content: Mapping[str, Any], links: Mapping[str, TokenLinks]) -> str:
    """The widget as a page of its own."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(content["title"])}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 16px; background: light-dark(#ffffff, #1a1d23); color: light-dark(#1a1f28, #eceff4); }}
h1 {{ margin: 0 0 10px; font: 600 18px system-ui, sans-serif; }}
</style>
</head>
<body>
<main>
<h1>Where tokens look</h1>
{fragment(content, links)}</main>
</body>
</html>
"""


@cache
def fixed_bytes() -> int:
    """Bytes of a page without anything of its text, its heads and its links."""
    nothing = {"title": "", "window": "", "notes": [], "weighting": "", "heads": [], "strings": [], "tokens": []}
    return len(page(nothing, {}).encode()) + BESIDE


def in_text(shown_text: str) -> str:
    """A shown text of a token as HTML in the running text."""
    return escape(shown_text).replace("\n", "<br>")


def _fallback(content: Mapping[str, Any], links: Mapping[str, TokenLinks]) -> str:
    """The window's text, and a table of strong links: of each head, in turn, those of the largest weight."""
    strings = content["strings"]
    text = "".join(in_text(strings[place]) for place in content["tokens"])
    per_head = max(1, min(ROWS_OF_HEAD, FALLBACK_ROWS // max(1, len(links))))
    rows = [row for name, each in list(links.items())[:FALLBACK_ROWS] for row in _strongest(name, each, per_head)]
    table = "\n".join(rows)
    return f"""<p><b>{escape(content["title"])}</b><br>{escape(content["window"])}</p>
<p>Here no script runs, so nothing can be hovered. The text:</p>
<p>{text}</p>
<p>Its strongest links ({escape(content["weighting"])}), those to the first token and to the token itself left out:</p>
<table><thead><tr><th>head</th><th>token</th><th>looks at</th><th>weight</th></tr></thead>
<tbody>
{table}
</tbody></table>
<p>{EXPLANATION}</p>"""


def _strongest(name: str, links: TokenLinks, count: int) -> list[str]:
    query = np.arange(links.start, links.stop)[:, None]
    weights = np.where((links.keys > 0) & (links.keys != query), links.key_weights, 0.0)
    best = np.argsort(-weights, axis=None, kind="stable")[:count]
    rows = []
    for row, rank in zip(*np.unravel_index(best, weights.shape), strict=True):
        if weights[row, rank] > 0:
            at, key = links.start + int(row), int(links.keys[row, rank])
            rows.append(
                f"<tr><td>{escape(name)}</td><td>{_told(links.tokens, at)}</td><td>{_told(links.tokens, key)}</td>"
                f"<td>{weights[row, rank]:.3f}</td></tr>"
            )
    return rows


def _told(tokens: Sequence[str], at: int) -> str:
    return f"{at:,}: {escape(shown(tokens[at]))}"
