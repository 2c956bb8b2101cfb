"""The inputs that detectors are measured on: lengths, special tokens, seeds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from interp.errors import InputError
from interp.heads.samples import RANDOM_WINDOW, RepeatedRandom, Source, Windows

ORDINARY = torch.arange(3, 200)


def source(**changes: Any) -> Source:
    given = {
        "text": None,
        "longest": 300,
        "before": (),
        "after": (),
        "bos": (0,),
        "ordinary": ORDINARY,
        "seed": 7,
        "count": 4,
    }
    return Source(**{**given, **changes})


def rows(sequences: Any) -> list[list[int]]:
    return [ids.tolist() for ids in sequences.ids]


def test_repeated_random_tokens():
    made = RepeatedRandom().make(source())
    assert made.prefix == 1
    assert made.described == "4 sequences of 50 random tokens, twice (seed 7)"
    assert len(made.ids) == 4
    for row in rows(made):
        assert row[0] == 0
        assert row[1:51] == row[51:]
        assert len(set(row[1:51])) == 50, "a token comes twice within the span"
        assert set(row[1:]) <= set(ORDINARY.tolist())
    assert len({tuple(row) for row in rows(made)}) == 4


def test_repeated_random_tokens_without_a_first_token():
    made = RepeatedRandom().make(source(bos=()))
    assert made.prefix == 0
    assert {len(row) for row in rows(made)} == {100}


def test_a_small_vocabulary_must_repeat_tokens():
    (row, *_) = rows(RepeatedRandom().make(source(ordinary=torch.arange(3, 33))))
    assert row[1:51] == row[51:]
    assert set(row[1:]) <= set(range(3, 33))


@pytest.mark.parametrize(("longest", "span"), [(101, 50), (100, 49), (64, 31), (5, 2)])
def test_a_short_context_takes_a_shorter_span(longest: int, span: int):
    assert {len(row) for row in rows(RepeatedRandom().make(source(longest=longest)))} == {1 + 2 * span}


def test_no_room_for_a_repetition():
    with pytest.raises(InputError, match="repeated random tokens need at least 5 positions, there are 4"):
        RepeatedRandom().make(source(longest=4))


@pytest.mark.parametrize("recipe", [RepeatedRandom(), Windows(), Windows(64)], ids=repr)
def test_seeds(recipe: RepeatedRandom | Windows):
    first = rows(recipe.make(source()))
    assert rows(recipe.make(source())) == first
    for seed in (0, 8, 7 + 1_000_003):
        other = rows(recipe.make(source(seed=seed)))
        assert not {tuple(row) for row in other} & {tuple(row) for row in first}
    state = torch.get_rng_state()
    recipe.make(source())
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"


def test_a_repeated_sequence_does_not_depend_on_how_many_are_drawn():
    assert rows(RepeatedRandom().make(source(count=9)))[:4] == rows(RepeatedRandom().make(source()))


@pytest.mark.parametrize(
    ("longest", "length", "expected"), [(300, None, 300), (4096, None, RANDOM_WINDOW), (300, 64, 64)]
)
def test_random_windows_stand_in_for_a_text(longest: int, length: int | None, expected: int):
    made = Windows(length).make(source(longest=longest))
    assert made.prefix == 1
    assert f"4 windows of {expected} positions of random tokens (seed 7)" in made.described
    for row in rows(made):
        assert len(row) == expected
        assert row[0] == 0
        assert set(row[1:]) <= set(ORDINARY.tolist())


def test_text_in_windows():
    """No token is lost but those of a last window shorter than half."""
    text = torch.arange(1000, 1000 + 25)
    made = Windows().make(source(text=text, longest=10, before=(0,), after=(1, 2)))
    assert rows(made) == [[0, *range(1000 + s, 1000 + min(s + 7, 25)), 1, 2] for s in (0, 7, 14, 21)]
    assert made.prefix == 1
    assert made.described == "4 windows of the text, 10 positions each, the last 7"
    shorter = Windows().make(source(text=text[:24], longest=10, before=(0,), after=(1, 2)))
    assert [len(row) for row in rows(shorter)] == [10, 10, 10]
    assert shorter.described == "3 windows of the text, 10 positions each"


def test_text_in_windows_of_one_length():
    made = Windows(64).make(source(text=torch.arange(150), before=(0,)))
    assert rows(made) == [[0, *range(63)], [0, *range(63, 126)]]


def test_a_text_shorter_than_a_window_is_one_window():
    made = Windows().make(source(text=torch.arange(5)))
    assert rows(made) == [[0, 1, 2, 3, 4]]


def test_a_text_too_short():
    message = r"the text has 62 tokens, fewer than the 63 that a window of 64 positions needs; give a longer text"
    with pytest.raises(InputError, match=message):
        Windows(64).make(source(text=torch.arange(62), before=(0,)))
    with pytest.raises(InputError, match="the text has 1 tokens, fewer than the 2"):
        Windows().make(source(text=torch.arange(1)))


def test_windows_longer_than_allowed():
    with pytest.raises(InputError, match="windows of 64 positions are longer than the 32 that are allowed"):
        Windows(64).make(source(longest=32))
