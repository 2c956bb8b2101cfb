"""Token strings as labels of Plotly figures, which would read markup in them."""

from __future__ import annotations

SHOWN = {"\n": "⏎", "\t": "⇥", "\r": "␍"}
"""Characters that cannot be seen, and what stands for them."""
LONGEST = 24


def plain(text: str, longest: int = LONGEST) -> str:
    """``text`` so that Plotly writes it as it is: no markup, one line, at most ``longest`` characters.

    Control characters and marks that change the direction of writing are shown by their code; a space at an end as "·".
    """
    shown = "".join(SHOWN.get(c, c) if c.isprintable() or c in SHOWN else f"⟨{ord(c):x}⟩" for c in text[: longest + 1])
    if len(shown) > longest or len(text) > longest:
        shown = shown[: longest - 1] + "…"
    inner = shown.strip(" ")
    before = len(shown) - len(shown.lstrip(" "))
    shown = "·" * before + inner + "·" * (len(shown) - before - len(inner))
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
