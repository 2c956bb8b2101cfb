"""The demo tokenizer: lossless, BOS by itself, text never a special token, loaded by AutoTokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from interp.demo.tokenizer import SPECIAL_TOKENS, load_tokenizer


@pytest.fixture(scope="module")
def saved(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(saved: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(saved)


def test_saved_tokenizer_loads_as_a_fast_one(loaded: PreTrainedTokenizerFast, saved: Path) -> None:
    assert loaded.is_fast
    assert loaded("a 12").input_ids == load_tokenizer(saved)("a 12").input_ids


@given(st.text())
def test_any_text_comes_back_exactly(loaded: PreTrainedTokenizerFast, text: str) -> None:
    ids = loaded(text).input_ids
    assert ids[0] == loaded.bos_token_id
    assert loaded.decode(ids[1:]) == text
    assert loaded.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize(
    "text", ["<s>", "a <pad> b", "<s><s>", "😀 👩‍👩‍👧 café\u0301", "  two  spaces\r\n\ttab ", "", "\uff11\uff12\uff13"]
)
def test_special_strings_and_awkward_text_stay_text(loaded: PreTrainedTokenizerFast, text: str) -> None:
    ids = loaded(text).input_ids[1:]
    assert not set(ids) & set(range(len(SPECIAL_TOKENS)))
    assert loaded.decode(ids) == text


def test_digits_are_tokens_of_their_own(loaded: PreTrainedTokenizerFast) -> None:
    assert loaded.tokenize("48213") == list("48213")


def test_batches_pad_on_the_left(loaded: PreTrainedTokenizerFast) -> None:
    batch = loaded(["river", "river garden winter"], padding=True)
    assert batch.input_ids[0][0] == loaded.pad_token_id
    assert batch.attention_mask[0][0] == 0
    assert batch.input_ids[1][0] == loaded.bos_token_id
