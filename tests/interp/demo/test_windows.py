"""Training windows: BOS, weights, shares, exact copies, needles that are stated and asked, and batches fixed by seed and step."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from interp.demo.corpus import Book, Corpus
from interp.demo.needles import NUMBER_KEYS, WORD_KEYS
from interp.demo.tokenizer import SPECIAL_TOKENS
from interp.demo.windows import NEEDLE, PROSE, REPEAT, SHORTEST_SPAN, Shares, WindowMaker
from interp.errors import InputError

KEYS = "|".join([*NUMBER_KEYS, *WORD_KEYS])
CLOZE = re.compile(rf"(?:The (?:{KEYS}) of \w+|For \w+ the (?:{KEYS})|\w+'s (?:{KEYS})) is$")
SEEDS = st.integers(0, 10_000)


def decode(tokenizer: PreTrainedTokenizerFast, ids: np.ndarray) -> str:
    """The text of token ids."""
    return str(tokenizer.decode(ids))


@given(SEEDS, st.integers(0, 500), st.sampled_from([128, 200, 256]))
def test_windows_start_with_bos_and_fill_their_length(maker: WindowMaker, seed: int, step: int, length: int) -> None:
    for window in maker.batch(seed, step, 8, length, Shares(0.25, 0.5)):
        assert window.tokens.shape == window.weights.shape == (length,)
        assert window.tokens[0] == 0
        assert window.weights[0] == 0
        assert not np.isin(window.tokens[1:], range(len(SPECIAL_TOKENS))).any()


def test_a_batch_is_fixed_by_seed_and_step(maker: WindowMaker) -> None:
    def tokens(seed: int, step: int) -> np.ndarray:
        return np.stack([window.tokens for window in maker.batch(seed, step, 6, 128, Shares(0.5, 0.25))])

    assert (tokens(3, 7) == tokens(3, 7)).all()
    assert (tokens(3, 7) != tokens(3, 8)).any()
    assert (tokens(3, 7) != tokens(4, 7)).any()


@pytest.mark.parametrize("count", [2, 16])
def test_shares_hold_even_for_small_batches(maker: WindowMaker, count: int) -> None:
    kinds = [w.kind for step in range(300) for w in maker.batch(0, step, count, 128, Shares(0.4, 0.25))]
    shares = [kinds.count(kind) / len(kinds) for kind in (REPEAT, NEEDLE, PROSE)]
    assert shares == pytest.approx([0.4, 0.25, 0.35], abs=0.04)


@given(SEEDS)
def test_second_copy_equals_the_first(maker: WindowMaker, seed: int) -> None:
    """The weights tell the parts: 0.1 over the first copy and again at the second one's first token."""
    window = maker.repeat(np.random.default_rng(seed), 128)
    low = np.flatnonzero(np.isclose(window.weights, 0.1))
    runs = np.split(low, np.flatnonzero(np.diff(low) > 1) + 1)
    run = runs[0].size
    # A copy that follows at once lengthens the run by its first token; otherwise that token is the next run.
    candidates = [(run - 1, run)] + [(run, int(later[0])) for later in runs[1:2]]

    def is_copy(size: int, start: int) -> bool:
        same = window.tokens[1 : 1 + size] == window.tokens[start : start + size]
        return bool(same.all() and (window.weights[start + 1 : start + size] == 1).all())

    assert run >= SHORTEST_SPAN
    assert any(is_copy(size, start) for size, start in candidates)


@given(SEEDS)
def test_each_needle_is_stated_and_asked_again(
    maker: WindowMaker, tokenizer: PreTrainedTokenizerFast, seed: int
) -> None:
    window = maker.needle(np.random.default_rng(seed), 256)
    asked = np.flatnonzero(window.weights == 4.0)
    text = decode(tokenizer, window.tokens[1:])
    for run in np.split(asked, np.flatnonzero(np.diff(asked) > 1) + 1):
        value = decode(tokenizer, window.tokens[run]).strip()
        assert re.fullmatch(r"\d{5}|[a-z]+ [a-z]+", value)
        before = decode(tokenizer, window.tokens[1 : run[0]])
        cloze = CLOZE.search(before)
        assert cloze
        assert f"{cloze.group()} {value}." in before
        assert text.count(f" {value}.") >= 2


@given(SEEDS, st.floats(0, 1), st.booleans(), st.sampled_from([0, 3]))
def test_haystack_ends_with_the_value_that_was_stated_at_its_depth(
    maker: WindowMaker, tokenizer: PreTrainedTokenizerFast, seed: int, depth: float, number: bool, distractors: int
) -> None:
    tokens, size = maker.haystack(np.random.default_rng(seed), 256, depth=depth, number=number, distractors=distractors)
    value = decode(tokenizer, tokens[-size:])
    before = decode(tokenizer, tokens[1:-size])
    assert tokens.size == 256
    assert f"{value}." in before
    assert bool(re.fullmatch(r" \d{5}", value)) == number
    cloze = CLOZE.search(before)
    assert cloze
    assert f"{cloze.group()}{value}." in before


def test_prose_stays_inside_one_book(tokenizer: PreTrainedTokenizerFast) -> None:
    corpus = Corpus([Book("a", "river " * 50), Book("b", "garden " * 50)], tokenizer)
    generator = np.random.default_rng(0)
    for _ in range(50):
        text = decode(tokenizer, corpus.piece(generator, 20))
        assert ("river" in text) != ("garden" in text)


def test_a_window_longer_than_every_book_is_refused(maker: WindowMaker) -> None:
    with pytest.raises(
        InputError, match=r"too little text: a window needs 999999 tokens in a row, the longest book has \d+"
    ):
        maker.corpus.piece(np.random.default_rng(0), 999_999)
