"""From texts and token ids to batches, and what is refused before the model is run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp.errors import InputError
from interp.inputs.convert import tokenise
from tests.interp.tiny import ARCHITECTURES, CONTEXT, NAMES, VOCABULARY, token_ids


@pytest.fixture(scope="module")
def model(own_model, tokenizer) -> interp.HookedModel:
    return interp.load(own_model("llama"), tokenizer=tokenizer)


@pytest.mark.parametrize(
    "inputs",
    [
        "w5 w6 w7",
        ["w5 w6 w7"],
        ("w5 w6 w7",),
        [0, 5, 6, 7],
        (0, 5, 6, 7),
        [[0, 5, 6, 7]],
        torch.tensor([0, 5, 6, 7]),
        torch.tensor([[0, 5, 6, 7]], dtype=torch.int32),
        [np.int64(0), 5, np.uint8(6), 7],
        list(torch.tensor([0, 5, 6, 7])),
        [np.array([0, 5, 6, 7])],
        (torch.tensor([0, 5, 6, 7]),),
    ],
    ids=repr,
)
def test_equal_inputs_give_equal_batches(inputs: Any, model):
    batch = model.batch(inputs)
    assert batch.ids.tolist() == [[0, 5, 6, 7]]
    assert batch.ids.dtype == torch.int64
    assert not batch.is_padded


@pytest.mark.parametrize(
    "ragged",
    [
        [[5, 6, 7], [8]],
        [torch.tensor([5, 6, 7]), torch.tensor([8])],
        [np.array([5, 6, 7]), np.array([8], dtype=np.int16)],
        (range(5, 8), [np.int64(8)]),
    ],
    ids=repr,
)
def test_padding_stands_on_the_right(ragged: Any, model):
    batch = model.batch(ragged)
    assert batch.ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.keep.tolist() == [[True, True, True], [True, False, False]]
    assert batch.is_padded


def test_special_tokens_on_request(tokenizer):
    assert tokenise("w5", tokenizer) == [0, 5]
    assert tokenise("w5", tokenizer, special=False) == [5]


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_empty_text(text: str, model):
    for inputs in (text, ["w5", text]):
        with pytest.raises(InputError, match=r"the text is empty.*; give a text with at least one word"):
            model.capture(inputs)


@pytest.mark.parametrize(
    "ids", [[[]], *(torch.zeros(*shape, dtype=torch.int64) for shape in ((0,), (1, 0), (0, 4)))], ids=repr
)
def test_no_token_ids(ids: Any, model):
    with pytest.raises(InputError, match="the input is empty; give at least one token"):
        model.capture(ids)


def test_which_input_is_empty_is_said(model):
    with pytest.raises(InputError, match="input 1 is empty"):
        model.capture([[5], []])


@pytest.mark.parametrize("ids", [[], ()], ids=repr)
def test_no_inputs(ids: Any, model):
    with pytest.raises(InputError, match="inputs: expected a text, texts, or token ids, got"):
        model.capture(ids)


@pytest.mark.parametrize("bad", [VOCABULARY, -1, 10**9])
def test_token_ids_out_of_range(bad: int, model):
    for inputs, where in (
        ([4, bad], "the input"),
        ([[4], [bad, 4]], "input 1"),
        (torch.tensor([[4, bad]]), "the input"),
    ):
        expected = rf"{where} holds token id {bad}, outside of the model's vocabulary of {VOCABULARY} \(0 to 60\)"
        with pytest.raises(InputError, match=expected):
            model.capture(inputs)


@pytest.mark.parametrize(
    "inputs",
    [
        None,
        5,
        {"input_ids": [4]},
        [4, "w5"],
        [[4], "w5"],
        [4.0, 5.0],
        [True, False],
        [[True]],
        [[4], 5],
        [torch.tensor([4]), torch.tensor([[5]])],
        [np.array([0.5])],
        [torch.tensor([True])],
        torch.tensor([0.5]),
        torch.tensor([True]),
        torch.tensor(4),
        token_ids((1, 2, 3)),
    ],
    ids=repr,
)
def test_something_else_than_text_and_ids(inputs: Any, model):
    with pytest.raises(
        InputError, match=r"expected .*(a text, texts, or token ids|integers of shape|a tensor with a batch)"
    ):
        model.capture(inputs)


def test_a_text_needs_a_tokenizer(own_model):
    with pytest.raises(InputError, match="this model has no tokenizer; give token ids"):
        interp.load(own_model("llama")).batch("w5")


def test_longer_than_the_context(model):
    assert model.capture(token_ids((1, CONTEXT))).facts["beyond_context"] is False
    expected = r"the input has 257 tokens, LlamaForCausalLM is made for 256; cut the input .*beyond_context=True"
    for ask in (model.capture, model.maps, model.batch, model):
        with pytest.raises(InputError, match=expected):
            ask(token_ids((1, CONTEXT + 1)))
    words = " ".join(["w5"] * CONTEXT)  # and a special token
    with pytest.raises(InputError, match=expected):
        model.capture(words)


@pytest.mark.parametrize("name", [name for name in NAMES if ARCHITECTURES[name].is_rotary])
def test_beyond_the_context_with_rotary_positions(name: str, own_model, eager_model):
    ids = token_ids((1, CONTEXT + 40))
    model = interp.load(own_model(name))
    capture = model.capture(ids, logits=True, beyond_context=True)
    assert capture.facts["beyond_context"] is True
    assert model.maps(ids, beyond_context=True)[0].shape[-1] == CONTEXT + 40
    with torch.no_grad():
        exact = eager_model(name)(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(capture.logits.double(), exact, rtol=0, atol=2e-5 * float(exact.abs().max()))


@pytest.mark.parametrize("name", ["gpt2", "opt", "bert"])
def test_learned_positions_end_with_the_context(name: str, own_model):
    model = interp.load(own_model(name))
    for beyond in (False, True):
        with pytest.raises(InputError, match=r"257 tokens, .* is made for 256, and its learned positions end there"):
            model.capture(token_ids((1, CONTEXT + 1)), beyond_context=beyond)
    assert model.capture(token_ids((1, CONTEXT)))["entropy"][0].shape[-1] == CONTEXT
