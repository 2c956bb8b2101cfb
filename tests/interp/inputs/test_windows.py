"""A text longer than the context in windows: every token covered, each position shown in the text, one window at a time."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

import interp
from interp.errors import InputError
from interp.inputs.tokens import tokenise
from tests.interp.tiny import CONTEXT, VOCABULARY, token_ids
from tests.interp.words import text_of, words_tokenizer

WORDS = token_ids((150,), seed=4).tolist()
TEXT = text_of(WORDS)


@pytest.fixture(scope="module")
def model(own_model) -> interp.HookedModel:
    """BOS before a text and EOS after it."""
    return interp.load(own_model("llama"), tokenizer=words_tokenizer("<s> $A </s>"))


@pytest.fixture(scope="module")
def demo() -> interp.HookedModel:
    return interp.load("demo")


@pytest.mark.parametrize(
    ("length", "stride"),
    [(None, None), (32, None), (32, 30), (32, 7), (32, 1), (3, None), (152, None), (151, None), (151, 149), (151, 1)],
)
def test_every_token_is_covered_and_new_just_once(length: int | None, stride: int | None, model):
    windows = model.windows(TEXT, length, stride)
    size = (length or CONTEXT) - 2
    step = stride or size
    starts = [n * step for n in range(len(WORDS)) if n == 0 or (n - 1) * step + size < len(WORDS)]
    assert len(windows) == len(starts) == len(list(windows))
    new = torch.zeros(len(WORDS), dtype=torch.int64)
    for number, (start, window) in enumerate(zip(starts, windows, strict=True)):
        assert window.number == number
        piece = WORDS[start : start + size]
        assert window.batch.ids.tolist() == [[0, *piece, 1]], "special tokens stand around each window"
        assert window.places.tolist() == [-1, *range(start, start + len(piece)), -1]
        assert window.is_new.shape == window.batch.ids.shape
        new[window.places[window.is_new[0]]] += 1
    assert bool((new == 1).all())


def test_positions_are_shown_in_the_whole_text(demo, tmp_path: Path):
    text = "\r\n".join(f"Chapter {n}: it was 한 naïve night," for n in range(40))
    path = tmp_path / "book.txt"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    ids = tokenise(text, demo.tokenizer, special=False)
    windows = demo.windows(path, 64, 50)
    assert windows.text == text, "line ends as they are, without the byte order mark"
    for window in windows:
        (row,) = window.batch.token_rows
        assert row.text is windows.text, "no window has a copy of its own"
        assert [token.position for token in row.tokens] == list(range(window.batch.tokens))
        for token, place in zip(row.tokens, window.places.tolist(), strict=True):
            if place == -1:
                assert token.is_special
                continue
            assert token.id == ids[place]
            assert token.text in ("", text[token.start : token.end])
            assert "".join(row.shown(token.position, around=10**6)) == text


def test_captures_are_those_of_each_window(demo, capsys):
    text = "The harbour was quiet, and nobody on the quay said so aloud. " * 12
    windows = demo.windows(text, 48, 20)
    found = list(windows.captures(["entropy"], layers=[1], progress=False))
    assert [window.number for window, _ in found] == list(range(len(windows)))
    for window, capture in found:
        expected = demo.capture(window.batch.ids, ["entropy"], layers=[1])
        assert torch.equal(capture["entropy"][1], expected["entropy"][1])
        assert capture.token_rows == window.batch.token_rows
    assert capsys.readouterr().err == ""
    next(windows.captures(["entropy"], layers=[1]))
    assert "capture demo" in capsys.readouterr().err


def test_new_tokens_are_the_queries_that_a_mean_counts(demo):
    """The mean over all windows of the new queries is a mean over the tokens of the text, each once."""
    windows = demo.windows("The harbour was quiet, and nobody on the quay said so aloud. " * 8, 40, 17)
    total, count = torch.zeros(6), 0
    for window in windows:
        probe = interp.Entropy(queries=window.is_new, reduce="mean")
        number = int(window.is_new.sum())
        total += number * demo.capture(window.batch, [probe], layers=[2])["entropy"][2][0]
        count += number
    assert count == len(windows.ids)
    by_hand, seen = torch.zeros(6), set()
    for window in windows:
        values = demo.capture(window.batch, ["entropy"], layers=[2])["entropy"][2][0]
        for column, place in enumerate(window.places.tolist()):
            if place >= 0 and place not in seen:
                seen.add(place)
                by_hand += values[:, column]
    torch.testing.assert_close(total, by_hand, rtol=1e-4, atol=1e-4)


def test_windows_are_not_held(demo):
    windows = demo.windows("A quiet night. " * 300, 64)
    batches = []
    for window in windows:
        batches.append(weakref.ref(window.batch))
    del window
    gc.collect()
    assert len(batches) > 10
    assert all(batch() is None for batch in batches)


def test_a_window_is_had_by_its_number(model):
    windows = model.windows(TEXT, 32)
    everything = list(windows)
    assert torch.equal(windows[-1].batch.ids, everything[-1].batch.ids)
    assert [window.number for window in windows[1:3]] == [1, 2]
    for beyond in (len(windows), -len(windows) - 1):
        with pytest.raises(IndexError, match=f"window {beyond}: there are {len(windows)}"):
            windows[beyond]
    assert repr(windows) == (
        "Windows(150 tokens of text in 5 windows of up to 32 positions, every 30 tokens, for LlamaForCausalLM)"
    )


def test_without_special_tokens(model):
    windows = model.windows(TEXT, 32, special=False)
    assert windows[0].batch.ids.tolist() == [WORDS[:32]]


def test_as_long_as_the_context_by_default(model, own_model):
    long = text_of(token_ids((CONTEXT + 10,), seed=1))
    assert [window.batch.tokens for window in model.windows(long)] == [CONTEXT, 14]
    counted = interp.load(_roberta(), tokenizer=words_tokenizer())
    # Its positions begin after the padding id, 2.
    assert [window.batch.tokens for window in counted.windows(long)] == [CONTEXT - 3, 15]
    for _, capture in counted.windows(long).captures(["entropy"], progress=False):
        assert capture.layers == (0, 1)


def _roberta() -> Any:
    from tests.interp.tiny import COMMON, WIDTHS, Architecture

    return Architecture("roberta", "RobertaConfig", WIDTHS | COMMON, "RobertaModel", is_rotary=False).build()


def test_longer_than_the_context_on_request(model):
    long = text_of(token_ids((CONTEXT + 30,), seed=1))
    with pytest.raises(InputError, match=r"the input has 280 tokens, .* is made for 256; cut .*beyond_context=True"):
        model.windows(long, 280)
    windows = model.windows(long, 280, beyond_context=True)
    captures = [capture for _, capture in windows.captures(["entropy"], progress=False)]
    assert [capture.ids.shape[1] for capture in captures] == [280, 10]
    assert captures[0].facts["beyond_context"] is True


@pytest.mark.parametrize("length", [2, 0, -5, 1.5, "64", True], ids=repr)
def test_a_length_that_holds_no_text(length: Any, model):
    with pytest.raises(InputError, match=r"length: expected an integer above 2 \(the special tokens of each window\)"):
        model.windows(TEXT, length)


@pytest.mark.parametrize("stride", [0, -1, 31, 2.0, True], ids=repr)
def test_a_stride_that_leaves_gaps(stride: Any, model):
    with pytest.raises(InputError, match=r"stride: expected an integer from 1 to 30 .*some would be in none\), got"):
        model.windows(TEXT, 32, stride)


def test_a_file_that_cannot_be_used(model, tmp_path: Path):
    empty, latin, binary = (tmp_path / name for name in ("empty.txt", "latin.txt", "binary.bin"))
    empty.write_text(" \n")
    latin.write_bytes("w5 w6 café".encode("latin-1"))
    binary.write_bytes(bytes([0x89, 0x50, 0xFF, 0xFE]))
    for path, said in (
        (tmp_path / "missing.txt", "there is no such file"),
        (tmp_path, "is a folder; give a text file"),
        (empty, "is empty; give a text with at least one word"),
        (latin, r"is not UTF-8 text \(byte 9\); convert it first"),
        (binary, r"is not UTF-8 text \(byte 0\); convert it first"),
    ):
        for ask in (model.windows, model.batch, model.capture):
            with pytest.raises(InputError, match=said):
                ask(path)


def test_a_short_file_is_a_text(model, tmp_path: Path):
    path = tmp_path / "short.txt"
    path.write_text("w5 w6")
    assert model.batch(path).ids.tolist() == [[0, 5, 6, 1]]


@pytest.mark.parametrize("text", [["w5"], 5, None, torch.tensor([5])], ids=repr)
def test_something_else_than_a_text(text: Any, model):
    with pytest.raises(InputError, match="text: expected a text or the Path of a text file, got"):
        model.windows(text)


def test_no_text_no_tokenizer(model, own_model):
    with pytest.raises(InputError, match="the text is empty"):
        model.windows(" ")
    with pytest.raises(InputError, match="this model has no tokenizer"):
        interp.load(own_model("llama")).windows(TEXT)
    other = interp.load(own_model("llama"), tokenizer=interp.load("demo").tokenizer)
    with pytest.raises(
        InputError, match=rf"outside of the model's vocabulary of {VOCABULARY}; it is not the tokenizer"
    ):
        other.windows("A quiet night in the harbour.")
