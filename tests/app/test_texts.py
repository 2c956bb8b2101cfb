"""The texts of the dashboard: the built-in ones in lines as the demo model knows them, what is pasted, what is refused."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest

import interp
from interp.captures.reading import read
from interp.errors import InputError
from interp.models.hooked import HookedModel
from interp_app.texts import COLUMNS, HELD, Texts


def prose() -> str:
    return resources.files("interp").joinpath("demo/prose.txt").read_text(encoding="utf-8")


def test_a_view_without_a_text_shows_the_prose():
    texts = Texts(1000)
    assert texts.get("") is texts.first
    assert texts.first.id == "prose"


def test_built_in_texts_are_wrapped_and_nothing_else_is_changed():
    content = Texts(1000).get("prose").content
    assert max(map(len, content.split("\n"))) <= COLUMNS
    assert content.replace("\n\n", "¶").replace("\n", " ").replace("¶", "\n\n") == prose()[: len(content)]


def test_the_passage_stands_twice_line_by_line():
    first, second = np.array_split(Texts(1000).get("twice").content.split("\n"), [len(passage_lines())])
    assert first.tolist() == passage_lines()
    assert second.tolist() == ["", *passage_lines()]


def passage_lines() -> list[str]:
    content = Texts(1000).get("twice").content
    return content[: (len(content) - 2) // 2].split("\n")


def test_lines_are_easier_for_the_demo_model_than_whole_paragraphs():
    """It was trained on books in lines of about 70 characters: its card. Held-out books cost it 2.9 to 3.2 nats."""
    demo = interp.load("demo")
    wrapped = Texts(1000).first.content
    flat = prose()[: len(wrapped)]
    assert mean_loss(demo, wrapped) < 3.2
    assert mean_loss(demo, flat) > mean_loss(demo, wrapped) + 1


def mean_loss(model: HookedModel, text: str) -> float:
    losses = read(model, text).losses
    assert losses is not None
    return float(np.nanmean(losses))


def test_an_opening_text_is_shown_as_it_was_given():
    texts = Texts(1000, "a long line " * 20)
    assert texts.first.id == "opening"
    assert texts.first.content == "a long line " * 20


def test_equal_texts_have_one_id_and_the_oldest_is_forgotten():
    texts = Texts(1000)
    first = texts.add("one\r\ntwo")
    assert texts.add("one\ntwo").id == first.id
    for number in range(HELD):
        texts.add(f"text {number}")
    with pytest.raises(InputError, match="is not held by this server any more; paste it again"):
        texts.get(first.id)


@pytest.mark.parametrize(
    ("content", "said"),
    [(" \n", "the text is empty"), ("a\0b", "NUL"), ("é" * 600, "the text has 1,200 bytes, at most 1,000 are taken")],
)
def test_texts_that_are_not_taken(content: str, said: str):
    with pytest.raises(InputError, match=said):
        Texts(1000).add(content)
