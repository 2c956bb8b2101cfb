"""A small made-up library of two books, its tokenizer and its windows: enough to train on in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from interp.demo.corpus import Book, Corpus, common_words
from interp.demo.settings import Phase, TrainSettings
from interp.demo.tokenizer import train_tokenizer
from interp.demo.windows import WindowMaker

WORDS = (
    "river garden winter candle window morning letter silver orchard harbour market valley evening lantern meadow station "
    "copper summer violin bridge kitchen pepper forest carpet thunder mirror island blanket ribbon cellar"
).split()
VOCABULARY = 384


def _story(seed: int, sentences: int) -> str:
    generator = np.random.default_rng(seed)
    lines = []
    for _ in range(sentences):
        words = [WORDS[int(i)] for i in generator.integers(len(WORDS), size=int(generator.integers(4, 12)))]
        lines.append("The " + " ".join(words) + ".")
    return " ".join(lines)


@pytest.fixture(scope="session")
def books() -> list[Book]:
    """A book to train on and one to hold out."""
    return [Book("a-story", _story(1, 600)), Book("b-story", _story(2, 200))]


@pytest.fixture(scope="session")
def library(books: list[Book], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The books as a folder of text files."""
    folder = tmp_path_factory.mktemp("library")
    for book in books:
        (folder / f"{book.name}.txt").write_text(book.text)
    return folder


@pytest.fixture(scope="session")
def tokenizer(books: list[Book]) -> PreTrainedTokenizerFast:
    """A tokenizer of 384 tokens."""
    return train_tokenizer((book.text for book in books), VOCABULARY, 256)


@pytest.fixture(scope="session")
def maker(books: list[Book], tokenizer: PreTrainedTokenizerFast) -> WindowMaker:
    """Windows of the first book."""
    return WindowMaker(
        Corpus(books[:1], tokenizer), tokenizer, common_words(books), random_weight=0.1, answer_weight=4.0
    )


@pytest.fixture(scope="session")
def tiny() -> TrainSettings:
    """Eight steps of a model of two layers."""
    return TrainSettings(
        steps=8,
        vocabulary=VOCABULARY,
        layers=2,
        width=32,
        mlp_width=32,
        heads=4,
        kv_heads=2,
        head_width=8,
        context=256,
        phases=(
            Phase(until=0.5, context=128, tokens=512, repeat=0.5, needle=0.25),
            Phase(until=1.0, context=256, tokens=512, repeat=0.5, needle=0.5),
        ),
        measure_every=3,
        save_every=2,
    )
