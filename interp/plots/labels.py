"""Tokens and their positions as labels of figures: plotly reads markup in text, and white space would not be seen."""

from __future__ import annotations

from html import escape
from typing import Any

SEEN = {"\n": "↵", "\t": "⇥", "\r": "␍"}
LONGEST = 14


def token_label(token: str, longest: int = LONGEST) -> str:
    """A token as plotly shows it, letter for letter: no markup, spaces around it as "␣", line ends as "↵", long ones cut."""
    shown = "".join(SEEN.get(letter, letter if letter.isprintable() else "�") for letter in token)
    core = shown.strip(" ")
    left = len(shown) - len(shown.lstrip(" "))
    shown = "␣" * left + core + "␣" * (len(shown) - left - len(core))
    if len(shown) > longest:
        shown = shown[: longest - 1] + "…"
    return escape(shown, quote=False)


def position_ticks(count: int) -> dict[str, Any]:
    """Ticks of an axis of so many positions, whole numbers each once: of few, plotly would mark halves too."""
    return {"tickformat": ",d", **({"dtick": 1} if count <= 8 else {})}
