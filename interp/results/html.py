"""How a result shows itself in a notebook: the finding, the head of its table, and how it was made. Everything is escaped."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING

from interp.results.result import ROWS_SHOWN

if TYPE_CHECKING:
    from interp.results.result import Result


def result_html(result: Result) -> str:
    """Summary, the first rows, and the settings folded up below."""
    frame = result.to_frame()
    shown = frame.head(ROWS_SHOWN).to_html(index=False, float_format=lambda x: f"{x:.4g}", escape=True)
    more = f"<p>{len(frame):,} rows; to_frame() gives all of them.</p>" if len(frame) > ROWS_SHOWN else ""
    settings = escape(json.dumps(result.settings, indent=2, ensure_ascii=False))
    return (
        f"<div><b>{escape(type(result).__name__)}</b><pre>{escape(result.summary())}</pre>{shown}{more}"
        f"<details><summary>how it was made</summary><pre>{settings}</pre></details></div>"
    )
