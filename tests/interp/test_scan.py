"""Scans: which detectors run, on what inputs, with which seeds, and what is refused before a model is run."""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import pandas as pd
import pytest
import torch

import interp
from interp.errors import InputError
from interp.models.hooked import HookedModel
from tests.interp.tiny import CONTEXT, HEADS, LAYERS, VOCABULARY, token_ids
from tests.interp.words import BOS, EOS, PAD, text_of, words_tokenizer

TEXT = text_of(token_ids((150,), seed=4))


@pytest.fixture(scope="module")
def model(own_model, tokenizer) -> HookedModel:
    return interp.load(own_model("llama"), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def bare(own_model) -> HookedModel:
    return interp.load(own_model("llama"))


@pytest.fixture
def inputs(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Token ids of every forward run."""
    seen: list[torch.Tensor] = []
    capture = HookedModel.capture

    def spy(self: HookedModel, given: Any, *rest: Any, **options: Any) -> interp.Capture:
        seen.append(given.ids)
        return capture(self, given, *rest, **options)

    monkeypatch.setattr(HookedModel, "capture", spy)
    return seen


def scan(model: HookedModel, *detectors: str, **options: Any) -> interp.HeadScores:
    return interp.scan(model, list(detectors) or "standard", progress=False, **options)


def test_as_few_forward_runs_as_inputs(model: HookedModel, inputs: list[torch.Tensor]):
    """Seven detectors on three kinds of input; the model itself runs no more often than that."""
    forwards = []
    handle = model.model.base_model.register_forward_hook(lambda *_: forwards.append(1))
    scores = scan(model, text=TEXT)
    handle.remove()
    assert len(scores.detectors) == 7
    assert sorted(tuple(ids.shape) for ids in inputs) == [(1, 151), (2, 64), (8, 101)]
    assert len(forwards) == 3


def test_long_batches_are_split(model: HookedModel, inputs: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch):
    # interp.scan is the function; the module has to be asked for by name.
    monkeypatch.setattr(sys.modules["interp.scan"], "BATCH_TOKENS", 250)
    split = scan(model, "induction", samples=5)
    assert [tuple(ids.shape) for ids in inputs] == [(2, 101), (2, 101), (1, 101)]
    monkeypatch.undo()
    whole = scan(model, "induction", samples=5)
    pd.testing.assert_frame_equal(split.frame, whole.frame, rtol=0, atol=1e-6)


def test_a_seed_gives_the_same_table_bit_for_bit(bare: HookedModel):
    first, again, other = (scan(bare, seed=seed, samples=3) for seed in (5, 5, 6))
    pd.testing.assert_frame_equal(first.frame, again.frame, check_exact=True)
    assert first.settings["seed"] == 5
    assert (first.frame["score"] != other.frame["score"]).mean() > 0.9


def test_a_seed_gives_the_same_inputs_and_another_one_others(bare: HookedModel, inputs: list[torch.Tensor]):
    for seed in (5, 5, 6):
        scan(bare, seed=seed, samples=3)
    first, again, other = inputs[:3], inputs[3:6], inputs[6:]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_random_tokens_are_ordinary(model: HookedModel, bare: HookedModel, inputs: list[torch.Tensor]):
    """No special token but BOS in front, with and without a tokenizer; no repeats inside the span."""
    scan(model)
    scan(bare)
    assert len(inputs) == 6
    for ids in inputs:
        assert bool((ids[:, 0] == BOS).all())
        assert int(ids[:, 1:].min()) >= 3
        assert not {BOS, EOS, PAD} & set(ids[:, 1:].flatten().tolist())
    repeated = [ids for ids in inputs if ids.shape[1] == 101]
    assert len(repeated) == 2
    for row in torch.cat(repeated).tolist():
        assert len(set(row[1:51])) == 50
        assert row[1:51] == row[51:]


def test_special_tokens_after_the_text(own_model, inputs: list[torch.Tensor]):
    model = interp.load(own_model("llama"), tokenizer=words_tokenizer("<s> $A </s>"))
    scan(model, "previous_token", text=TEXT, window=50)
    assert [tuple(ids.shape) for ids in inputs] == [(3, 50)]
    assert inputs[0][:, 0].tolist() == [BOS] * 3
    assert inputs[0][:, -1].tolist() == [EOS] * 3


def test_a_text_without_special_tokens(own_model, inputs: list[torch.Tensor]):
    model = interp.load(own_model("llama"), tokenizer=words_tokenizer(None))
    scan(model, "previous_token", text=TEXT)
    assert inputs[0].tolist() == [[int(word[1:]) for word in TEXT.split()]]


def test_standard_without_text_leaves_out_what_needs_one(model: HookedModel, bare: HookedModel):
    assert scan(model).settings["left_out"] == dict.fromkeys(
        ["induction_text", "copying"], "it needs a text; give text= (--text)"
    )
    without = scan(bare, text=TEXT)
    reason = "it needs a text, and LlamaForCausalLM has no tokenizer"
    assert without.settings["left_out"] == dict.fromkeys(["induction_text", "copying"], reason)
    assert "random tokens" in without.settings["inputs"]["previous_token"]
    assert without.settings["text_tokens"] is None
    assert interp.scan(model, ["standard"], progress=False).settings["left_out"]


def test_a_detector_that_needs_text_is_refused_by_name(model: HookedModel, bare: HookedModel):
    with pytest.raises(
        InputError, match=r"detector 'induction_text' cannot be run: it needs a text; give text= \(--text"
    ):
        scan(model, "induction_text")
    with pytest.raises(InputError, match=r"detector 'induction_text' cannot be run: .* has no tokenizer"):
        scan(bare, "induction_text", text=TEXT)


def test_an_encoder(own_model, tokenizer, inputs: list[torch.Tensor]):
    encoder = interp.load(own_model("bert"), tokenizer=tokenizer)
    scores = scan(encoder, text=TEXT)
    assert scores.detectors == ["previous_token", "current_token", "next_token", "first_token_sink"]
    reason = "it is defined for heads that look back only, and BertModel sees both ways"
    backward = ["duplicate_token", "induction", "induction_text", "copying"]
    assert scores.settings["left_out"] == dict.fromkeys(backward, reason)
    inputs.clear()
    with pytest.raises(
        InputError, match="detector 'induction' cannot be run: it is defined for heads that look back only"
    ):
        scan(encoder, "previous_token", "induction", text=TEXT)
    assert not inputs


def test_settings(model: HookedModel):
    settings = scan(model, "previous_token", "induction", text=TEXT, window=40, samples=2, seed=3).settings
    assert settings["detectors"] == ["previous_token", "induction"]
    assert settings["inputs"] == {
        "previous_token": "4 windows of the text, 40 positions each, the last 34",
        "induction": "2 sequences of 19 random tokens, twice (seed 3)",
    }
    stated = {key: settings[key] for key in ("window", "samples", "seed", "text_tokens", "beyond_context", "left_out")}
    expected = {"window": 40, "samples": 2, "seed": 3, "text_tokens": 150, "beyond_context": False, "left_out": {}}
    assert stated == expected
    assert settings["model"]["architecture"] == "LlamaForCausalLM"
    assert settings["methods"]["induction"]["source"] == interp.detectors()["induction"].source
    assert settings["text_sha256"] == hashlib.sha256(TEXT.encode()).hexdigest()


def test_windows_too_short_for_a_detector(model: HookedModel):
    scores = scan(model, text=TEXT, window=32)
    reason = "it needs 64 positions, and windows of 32 are asked for"
    assert scores.settings["left_out"] == {"first_token_sink": reason}
    with pytest.raises(InputError, match=f"detector 'first_token_sink' cannot be run: {reason}"):
        scan(model, "first_token_sink", text=TEXT, window=32)


def test_a_context_too_short_for_a_detector():
    from tests.interp.tiny import ARCHITECTURES

    short = interp.load(ARCHITECTURES["gpt2"].build(max_position_embeddings=32, n_positions=32))
    scores = scan(short, samples=2)
    assert "it needs 64 positions, and the context of GPT2LMHeadModel is 32" in scores.settings["left_out"].values()
    assert "15 random tokens, twice" in scores.settings["inputs"]["induction"]


def test_a_text_too_short(model: HookedModel, inputs: list[torch.Tensor]):
    with pytest.raises(
        InputError, match="first_token_sink: the text has 20 tokens, fewer than the 63 that a window of 64"
    ):
        scan(model, text=text_of([3, *range(3, 22)]))
    with pytest.raises(InputError, match="induction_text: the text is too short, none of its tokens comes twice"):
        scan(model, "induction_text", text=text_of(range(3, 23)))
    with pytest.raises(InputError, match="previous_token, current_token: the text has 1 tokens, fewer than the 2"):
        scan(model, "previous_token", "current_token", text="w5")
    assert not inputs


def test_windows_without_a_copy_do_not_count(model: HookedModel):
    """Only the second window repeats a token."""
    text = text_of([*range(3, 12), 5, 6, 7, 5, 6, 7, 5, 6, 7])
    scores = scan(model, "induction_text", "previous_token", text=text, window=10)
    assert set(scores.of("induction_text")["samples"]) == {1}
    assert set(scores.of("previous_token")["samples"]) == {2}
    assert scores.frame["score"].notna().all()


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_text(model: HookedModel, text: str):
    with pytest.raises(InputError, match=r"the text is empty.*; give a text with at least one word"):
        scan(model, text=text)


def test_a_text_longer_than_the_context(model: HookedModel, own_model, tokenizer, inputs: list[torch.Tensor]):
    long = text_of(token_ids((CONTEXT + 9,), seed=1))
    with pytest.raises(
        InputError, match=rf"the input has {CONTEXT + 10} tokens, .* made for {CONTEXT}; cut the input into"
    ):
        scan(model, text=long)
    learned = interp.load(own_model("gpt2"), tokenizer=tokenizer)
    with pytest.raises(InputError, match="its learned positions end there; cut the input into windows"):
        scan(learned, text=long, beyond_context=True)
    with pytest.raises(InputError, match=r"the input has 300 tokens.*beyond_context=True \(--beyond-context\)"):
        scan(model, text=long, window=300)
    assert not inputs
    scores = scan(model, "previous_token", text=long, beyond_context=True)
    assert [tuple(ids.shape) for ids in inputs] == [(1, CONTEXT + 10)]
    assert scores.settings["beyond_context"] is True
    # What was allowed is not what was done.
    short = scan(model, "previous_token", text=TEXT, beyond_context=True)
    assert short.settings["beyond_context"] is False
    assert scan(learned, "previous_token", text=long, window=100).settings["beyond_context"] is False


def test_a_tokenizer_of_another_model(own_model):
    other = words_tokenizer()
    other.add_tokens(["w61"])
    model = interp.load(own_model("llama"), tokenizer=other)
    with pytest.raises(InputError, match=f"token id {VOCABULARY}, outside of the model's vocabulary of {VOCABULARY}"):
        scan(model, text=TEXT + " w61")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"samples": 0}, "samples: expected an integer of at least 1, got 0"),
        ({"samples": 2.0}, "samples: expected an integer"),
        ({"window": 7}, "window: expected an integer of at least 8, got 7"),
        ({"window": "64"}, "window: expected an integer"),
        ({"seed": -1}, "seed: expected an integer from 0 to"),
        ({"seed": 2**32}, "seed: expected an integer from 0 to"),
        ({"seed": "0"}, "seed: expected an integer from 0 to"),
        ({"text": 5}, "text: expected a string, got int"),
        ({"text": b"w5"}, "text: expected a string, got bytes"),
    ],
    ids=str,
)
def test_options_that_do_not_fit(option: dict[str, Any], message: str, model: HookedModel, inputs: list[torch.Tensor]):
    with pytest.raises(InputError, match=message):
        scan(model, **option)
    assert not inputs


def test_largest_seed(bare: HookedModel):
    assert scan(bare, "induction", seed=2**32 - 1, samples=2).settings["seed"] == 2**32 - 1


def test_an_unknown_detector(model: HookedModel, inputs: list[torch.Tensor]):
    with pytest.raises(InputError, match=r"unknown detector 'previus_token'; did you mean 'previous_token'\?"):
        scan(model, "previus_token")
    with pytest.raises(InputError, match="give at least one name"):
        interp.scan(model, [])
    assert not inputs


def test_progress_goes_to_stderr(bare: HookedModel, capfd: pytest.CaptureFixture[str]):
    interp.scan(bare, ["induction"], samples=2)
    out, err = capfd.readouterr()
    assert out == ""
    assert "scan LlamaForCausalLM" in err
    assert "202/202" in err
    interp.scan(bare, ["induction"], samples=2, progress=False)
    assert capfd.readouterr() == ("", "")


def test_the_model_is_left_as_it_was(bare: HookedModel):
    ids = token_ids((1, 20))
    before = bare(ids).logits
    scan(bare, samples=2)
    assert torch.equal(bare(ids).logits, before)
    assert bare.model.config._attn_implementation == "sdpa"


def test_a_half_precision_model(own_model):
    from tests.interp.tiny import ARCHITECTURES

    half = interp.load(ARCHITECTURES["llama"].build().to(torch.bfloat16))
    scores = scan(half, samples=2)
    assert scores.settings["model"]["dtype"] == "bfloat16"
    exact = scan(interp.load(own_model("llama")), samples=2)
    assert (scores.frame["score"] - exact.frame["score"]).abs().max() < 0.1
    assert len(scores.frame) == LAYERS * HEADS * 5
