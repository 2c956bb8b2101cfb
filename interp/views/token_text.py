"""A token as a page shows it: letter for letter, with everything seen that would else be invisible or move what stands around it.

The result is plain text, not HTML: whoever puts it into a page escapes it.
"""

from __future__ import annotations

import unicodedata

LONGEST = 60
"""Characters of a token that are shown; of a longer one the first, "…" and how many there are."""

SEEN = {"\n": "↵\n", "\t": "⇥", "\r": "␍"}
JOINERS = "\u200c\u200d"
"""Zero width non-joiner and joiner: spelling in Persian and Hindi, and what holds composed emoji together."""
OF_NO_SIGHT = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}
"""Unicode categories: controls, formats (marks of direction), unassigned, private, halves of pairs, separators."""


def shown(token: str, longest: int = LONGEST) -> str:
    r"""A token's text to be read: "\n" as "↵" and a line end, "\t" as "⇥", controls and marks of direction by their code.

    A token of spaces alone is shown as "␣" for each, so is every space that is not the common one; a combining mark without
    a letter before it gets a dotted circle. "" stays "".
    """
    cut = f"{token[: longest - 1]}… ({len(token):,} characters)" if len(token) > longest else token
    if cut and not cut.strip(" "):
        return "␣" * len(cut)
    first = "◌" if cut and unicodedata.combining(cut[0]) else ""
    is_joined = any(letter not in JOINERS for letter in cut)
    return first + "".join(_seen(letter, is_joined) for letter in cut)


def _seen(letter: str, is_joined: bool) -> str:
    if letter in SEEN:
        return SEEN[letter]
    if letter in JOINERS and is_joined:
        return letter
    category = unicodedata.category(letter)
    if category in OF_NO_SIGHT:
        return f"⟨U+{ord(letter):04X}⟩"
    return "␣" if category == "Zs" and letter != " " else letter
