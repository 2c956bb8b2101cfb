"""Tokens as a page shows them."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.views.token_text import LONGEST, shown


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (" the", " the"),
        ("", ""),
        (" ", "␣"),
        ("   ", "␣␣␣"),
        ("\n\n", "↵\n↵\n"),
        ("\ta\r", "⇥a␍"),
        ("\u202eabc", "⟨U+202E⟩abc"),
        ("\x00", "⟨U+0000⟩"),
        ("\ud83d", "⟨U+D83D⟩"),
        ("a\u00a0b", "a␣b"),
        ("\u0301e", "◌\u0301e"),
        ("e\u0301", "e\u0301"),
        ("👩\u200d👩", "👩\u200d👩"),
        ("\u200d", "⟨U+200D⟩"),
        ("<b>&", "<b>&"),
        ("x" * 61, "x" * 59 + "… (61 characters)"),
        ("x" * 60, "x" * 60),
    ],
)
def test_what_is_not_seen_is_shown(token: str, expected: str) -> None:
    assert shown(token) == expected


@given(st.text(st.characters(), max_size=80))
def test_nothing_shown_is_invisible_or_turns_the_text_around(token: str) -> None:
    text = shown(token)
    assert len(text) < 9 * LONGEST
    for letter in text:
        assert unicodedata.category(letter) not in ("Cf", "Cs", "Cn", "Co", "Zl", "Zp") or letter in "\u200c\u200d"
        assert unicodedata.category(letter) != "Cc" or letter == "\n"
    assert bool(text) == bool(token)
