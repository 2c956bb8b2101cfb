"""A tokenizer whose words are w3, w4, ...: the word wN has the id N, so that tests can read and write texts by ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tests.interp.tiny import VOCABULARY

BOS, EOS, PAD = 0, 1, 2


def words_tokenizer(template: str | None = "<s> $A", names: Mapping[int, str] | None = None) -> PreTrainedTokenizerFast:
    """``template``: the special tokens that it puts around a text; None puts none. ``names``: other words for some ids."""
    words = {i: f"w{i}" for i in range(3, VOCABULARY)} | dict(names or {})
    ids = {"<s>": BOS, "</s>": EOS, "<pad>": PAD} | {word: i for i, word in words.items()}
    core = Tokenizer(WordLevel(ids, unk_token="w3"))
    core.pre_tokenizer = WhitespaceSplit()
    if template is not None:
        core.post_processor = TemplateProcessing(single=template, special_tokens=[("<s>", BOS), ("</s>", EOS)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def text_of(ids: Iterable[int]) -> str:
    return " ".join(f"w{int(i)}" for i in ids)
