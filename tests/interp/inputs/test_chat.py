"""Chat messages go through the tokenizer's own template, and their tokens stand in what it writes."""

from __future__ import annotations

from typing import Any

import pytest

import interp
from interp.demo.tokenizer import train_tokenizer
from interp.errors import InputError
from tests.interp.tiny import ARCHITECTURES

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}{{ raise_exception('no such role: ' + message['role']) }}"
    "{% endif %}<|{{ message['role'] }}|>\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is <b>한</b>?"},
]
OTHER = [{"role": "user", "content": "Hello"}]
WRITTEN = "<s><|system|>\nBe brief.\n<|user|>\nWhere is <b>한</b>?\n"


@pytest.fixture(scope="module")
def model() -> interp.HookedModel:
    tokenizer = train_tokenizer(["Be brief. Where is it? Hello system user assistant"] * 3, 300, 256)
    tokenizer.split_special_tokens = False
    tokenizer.chat_template = TEMPLATE
    return interp.load(ARCHITECTURES["llama"].build(vocab_size=300), tokenizer=tokenizer)


@pytest.mark.parametrize("add_generation_prompt", [False, True])
def test_the_ids_are_those_of_the_tokenizers_own_template(add_generation_prompt: bool, model):
    expected = model.tokenizer.apply_chat_template(
        CHAT, add_generation_prompt=add_generation_prompt, tokenize=True, return_dict=False
    )
    batch = model.batch(CHAT, add_generation_prompt=add_generation_prompt)
    assert batch.ids.tolist() == [expected]
    assert expected.count(model.tokenizer.bos_token_id) == 1, "the template's, and not the tokenizer's beside it"


def test_tokens_stand_in_the_text_that_the_template_wrote(model):
    capture = model.capture(CHAT, ["entropy"])
    (row,) = capture.token_rows
    assert row.text == WRITTEN
    assert "".join(capture.tokens[0]) == WRITTEN
    assert (row.tokens[0].text, row.tokens[0].is_special, row.tokens[0].start) == ("<s>", True, 0)
    for token in row.tokens:
        assert token.text in ("", WRITTEN[token.start : token.end])


def test_the_answer_is_opened_on_request(model):
    row = model.batch(CHAT, add_generation_prompt=True).token_rows[0]
    assert row.text == WRITTEN + "<|assistant|>\n"


@pytest.mark.parametrize("padding", ["left", "right"])
def test_several_conversations(padding: str, model):
    batch = model.batch([CHAT, OTHER], padding=padding)
    assert [row.text for row in batch.token_rows] == [WRITTEN, "<s><|user|>\nHello\n"]
    assert batch.padding == padding
    for row, keep, conversation in zip(batch.ids, batch.keep, [CHAT, OTHER], strict=True):
        assert row[keep].tolist() == model.batch(conversation).ids[0].tolist()


def test_a_tokenizer_without_a_template():
    with pytest.raises(InputError, match=r"has no chat template; give the text itself, or set tokenizer.chat_template"):
        interp.load("demo").batch(CHAT)


def test_no_tokenizer(own_model):
    with pytest.raises(InputError, match="chat messages need a tokenizer with a chat template"):
        interp.load(own_model("llama")).batch(CHAT)


def test_a_template_that_refuses(model):
    with pytest.raises(InputError, match="chat template cannot write these messages: no such role: judge"):
        model.batch([{"role": "judge", "content": "x"}])


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([{"role": "user"}], r"message 0: expected a text as its content, got None"),
        ([*CHAT, {"role": "user", "content": None}], r"message 2: expected a text as its content, got None"),
        ([*CHAT, {"content": "x"}], r"message 2: expected \{'role': 'user', 'content': a text\}, got"),
        ([*CHAT, "x"], r"message 2: expected \{'role': 'user', 'content': a text\}, got 'x'"),
        ([CHAT, [{"role": 5, "content": "x"}]], r"message 0 of conversation 1: expected \{'role'"),
        ([CHAT, "text"], "conversation 1: expected a list of messages, got 'text'"),
        ([CHAT, []], r"conversation 1: expected a list of messages, got \[\]"),
        (CHAT[0], r"a chat is a list of messages; give \[\{'role': ..., 'content': ...\}\]"),
        (["text", CHAT], "expected a text, texts, or token ids .*got a mixture or other values"),
        (
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}],
            "message 0 holds more than text; give what the model's processor returns for it",
        ),
    ],
    ids=range(10),
)
def test_messages_that_cannot_be_used(inputs: Any, said: str, model):
    with pytest.raises(InputError, match=said):
        model.batch(inputs)


def test_options_are_true_or_false(model):
    for option in ("add_generation_prompt", "special"):
        with pytest.raises(InputError, match=f"{option}: expected True or False, got 'yes'"):
            model.batch(CHAT, **{option: "yes"})


def test_a_chat_that_is_too_long(model):
    with pytest.raises(
        InputError, match=r"the input has [\d,]+ tokens, LlamaForCausalLM is made for 256; cut the input"
    ):
        model.capture([{"role": "user", "content": "Where is it? " * 200}])
