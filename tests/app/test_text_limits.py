"""What is no text, or too much of one."""

from __future__ import annotations

import pytest

from interp.errors import InputError
from interp_app.texts import HELD, Texts


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "empty"),
        (" \n\t\r\n", "empty"),
        ("a\0b", "NUL"),
        ("half \ud83d of it", "lone surrogate, character 5"),
        ("\udcff", "lone surrogate"),
        ("x" * 1001, "1,001 bytes, at most 1,000"),
        ("ü" * 501, "1,002 bytes, at most 1,000"),
    ],
)
def test_what_is_no_text_is_refused(content: str, why: str):
    texts = Texts(1000)
    with pytest.raises(InputError, match=why):
        texts.add(content)
    assert len(texts.all()) == 2


def test_a_text_of_the_greatest_length_is_taken():
    assert Texts(1000).add("ü" * 500).content == "ü" * 500


def test_the_opening_text_is_checked_too():
    with pytest.raises(InputError, match="at most 10"):
        Texts(10, opening="twelve bytes")


def test_titles_turn_no_direction_of_writing_and_break_no_line():
    title = Texts(1000).add("\u202egnp.exe\u2066\nnext\tword\x1b[31m" + "x" * 200).title
    assert title.isprintable()
    assert title.startswith("gnp.exe next word")
    assert len(title) <= 48


def test_a_title_of_marks_alone_is_not_empty():
    assert Texts(1000).add("\u202e\u200b").title == "(a text without letters)"


def test_hostile_content_is_held_as_it_is():
    content = "</script><img src=x onerror=alert(1)>\n**bold** [x](javascript:alert(1))"
    assert Texts(1000).add(content).content == content


def test_no_more_than_so_many_are_held():
    texts = Texts(1000)
    ids = [texts.add(f"text {number}").id for number in range(HELD + 3)]
    assert len(texts.all()) == HELD + 2
    with pytest.raises(InputError, match="not held by this server any more"):
        texts.get(ids[0])
    assert texts.get(ids[-1]).content == f"text {HELD + 2}"


def test_line_ends_do_not_make_another_text():
    texts = Texts(1000)
    assert texts.add("a\r\nb").id == texts.add("a\nb").id == texts.add("a\rb").id
