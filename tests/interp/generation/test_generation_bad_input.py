"""What cannot be generated is refused with one clear error, before the model runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertForMaskedLM

import interp
from interp import edits
from interp.errors import InputError, RunError
from interp_kernels import Probe
from tests.interp.tiny import ARCHITECTURES, BERT, CONTEXT, token_ids
from tests.interp.zoo.hybrids import HYBRIDS
from tests.interp.zoo.own_code import OWN_CODE

PROMPT = token_ids((2, 12))


@pytest.fixture
def model(own_model, monkeypatch: pytest.MonkeyPatch) -> interp.HookedModel:
    """A model that must not run."""
    loaded = interp.load(own_model("llama"))

    def ran(*_: Any, **__: Any) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(loaded.model, "forward", ran)
    return loaded


@pytest.mark.parametrize("count", [0, -1, 2.0, True, None])
def test_max_new_tokens(model, count):
    with pytest.raises(InputError, match=r"max_new_tokens: expected an integer of at least 1, got "):
        model.generate(PROMPT, count)


@pytest.mark.parametrize("seed", [-1, 0.5, None])
def test_seeds(model, seed):
    with pytest.raises(InputError, match="seed: expected an integer from 0 to "):
        model.generate(PROMPT, 3, do_sample=True, seed=seed)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_beams": 4}, "num_beams=4: beam search keeps several rows"),
        ({"num_return_sequences": 2}, "num_return_sequences=2: give the prompt several times"),
        ({"use_cache": False}, "use_cache=False: each step's row is taken with the cache"),
        ({"cache_implementation": "static"}, "cache_implementation='static': .* dynamic"),
        ({"cache_implementation": "quantized"}, "cache_implementation='quantized': .* dynamic"),
        ({"cache_implementation": "offloaded"}, "cache_implementation='offloaded': .* dynamic"),
        ({"cache_implementation": "paged"}, "cache_implementation='paged': .* dynamic"),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens=3: assisted decoding"),
        ({"assistant_model": nn.Identity()}, "unknown setting of generation 'assistant_model'"),
        ({"guidance_scale": 1.5}, "guidance_scale=1.5: classifier-free guidance runs the model twice"),
        ({"prefill_chunk_size": 4}, "prefill_chunk_size=4: the prompt is read in one run"),
        ({"max_length": 40}, "max_length=40: give max_new_tokens"),
        ({"output_attentions": True}, "output_attentions=True: ask for probes"),
        ({"temprature": 0.5}, "unknown setting of generation 'temprature'; did you mean 'temperature'"),
        ({"temperature": 0.5}, "temperature=0.5 means nothing without sampling; give do_sample=True"),
        ({"do_sample": True, "temperature": 0.0}, "temperature: expected a number above 0, got 0.0"),
        ({"do_sample": True, "top_p": 1.5}, "top_p: expected a number above 0 and at most 1, got 1.5"),
        ({"do_sample": True, "top_k": -1}, "top_k: expected an integer of at least 0"),
        ({"repetition_penalty": -2.0}, "repetition_penalty: expected a number above 0, got -2.0"),
        ({"stop_strings": ["w5"]}, "stop_strings: this model has no tokenizer"),
        ({"stopping": ["w5"]}, r"stopping: expected a list of transformers.StoppingCriteria, got \['w5'\]"),
        ({"stopping": None}, r"stopping: expected a list of transformers.StoppingCriteria, got None"),
        ({"do_sample": "yes"}, "do_sample: expected True or False, got 'yes'"),
        ({"no_repeat_ngram_size": "2"}, "no_repeat_ngram_size: expected an integer of at least 0, got '2'"),
        ({"min_new_tokens": -1}, "min_new_tokens: expected an integer of at least 0, got -1"),
        ({"max_time": "x"}, "max_time: expected a number above 0, got 'x'"),
        ({"do_sample": True, "temperature": True}, "temperature: expected a number above 0, got True"),
        ({"do_sample": True, "min_p": "x"}, "min_p: expected a number from 0 to 1, got 'x'"),
        ({"do_sample": True, "top_h": 2}, "top_h: expected a number above 0 and at most 1, got 2"),
        ({"renormalize_logits": "x"}, "renormalize_logits: expected True or False, got 'x'"),
        ({"eos_token_id": "a"}, "eos_token_id: expected a token id, or several"),
        ({"pad_token_id": [1]}, r"pad_token_id: expected a token id, got \[1\]"),
        ({"suppress_tokens": 3}, "suppress_tokens: expected a list of token ids"),
        ({"stop_strings": 5}, "stop_strings: expected a string, or several, none of them empty, got 5"),
        (
            {"stop_strings": ["w5", ""]},
            r"stop_strings: expected a string, or several, none of them empty, got \['w5', ''\]",
        ),
        ({"eos_token_id": -1}, r"eos_token_id: token id -1 is outside of the model's vocabulary of 61 \(0 to 60\)"),
        ({"eos_token_id": [5, 61]}, "eos_token_id: token id 61 is outside of the model's vocabulary of 61"),
        ({"pad_token_id": 10**9}, "pad_token_id: token id 1000000000 is outside .*; give an id that the model knows"),
        ({"suppress_tokens": [5, -1]}, "suppress_tokens: token id -1 is outside"),
        ({"bad_words_ids": 5}, r"generation settings \(bad_words_ids=5\): `bad_words_ids` has to be a non-empty list"),
        ({"sequence_bias": 5}, r"generation settings \(sequence_bias=5\): `sequence_bias` has to be"),
        ({"exponential_decay_length_penalty": 5}, r"generation settings \(exponential_decay_length_penalty=5\): "),
        ({"watermarking_config": 5}, r"generation settings \(watermarking_config=5\): "),
        ({"progress": 2}, "progress: expected True or False, got 2"),
    ],
)
def test_settings(model, settings, said):
    with pytest.raises(InputError, match=said):
        model.generate(PROMPT, 3, **settings)


def test_what_the_library_stumbles_over_is_named_as_a_setting():
    model = ARCHITECTURES["llama"].build()
    model.generation_config.eos_token_id = None  # which the penalty wants
    with pytest.raises(InputError, match=r"generation settings \(exponential_decay_length_penalty=\(3, 1.5\)\): "):
        interp.load(model).generate(PROMPT, 3, exponential_decay_length_penalty=(3, 1.5))


def test_settings_of_the_model_that_cannot_be_left_out():
    model = ARCHITECTURES["llama"].build()
    model.generation_config.prompt_lookup_num_tokens = 4
    with pytest.raises(InputError, match=r"own generation settings hold prompt_lookup_num_tokens=4: .* = None"):
        interp.load(model).generate(PROMPT, 3)


def test_a_text_longer_than_the_context(model, own_model):
    prompt = token_ids((CONTEXT - 4,))
    with pytest.raises(InputError, match=r"252 tokens and 5 new ones make 257, .* at most 4 .* beyond_context=True"):
        model.generate(prompt, 5)
    with pytest.raises(InputError, match=r"made for 256, and its learned positions end there; ask for at most 4"):
        interp.load(own_model("gpt2")).generate(prompt, 5, beyond_context=True)
    with pytest.raises(InputError, match="the input has 257 tokens"):
        model.generate(token_ids((CONTEXT + 1,)), 5)


def test_beyond_the_context_where_positions_are_relative(own_model):
    generation = interp.load(own_model("llama")).generate(
        token_ids((CONTEXT - 1,)), 3, ["entropy"], beyond_context=True, min_new_tokens=3
    )
    assert generation.ids.shape[1] == CONTEXT + 2


@pytest.mark.parametrize(
    ("probes", "said"),
    [
        (
            [interp.Pooled(4)],
            "Pooled pools over squares of the map, and a step has one row; ask for it in prefill_probes",
        ),
        ([interp.Entropy(reduce="mean")], "Entropy: a step has one row, which counts; leave reduce= and queries= out"),
        ([interp.KeyMass(torch.ones(12, 1))], "KeyMass holds tensors .* give probes as a function of interp.Step"),
        ([interp.Peak(queries=torch.ones(12).bool())], "Peak holds tensors"),
        (["entropy", interp.Distance(name="entropy")], r"names must differ, \['entropy'\] come twice"),
        (["entrpy"], "unknown probe 'entrpy'; did you mean 'entropy'"),
        (lambda step: [interp.Pooled(4)], "Pooled pools over squares of the map"),
        (lambda step: ["entrpy"], "unknown probe 'entrpy'; did you mean 'entropy'"),
    ],
)
def test_probes_that_do_not_fit_a_row(model, probes, said):
    with pytest.raises(InputError, match=said):
        model.generate(PROMPT, 3, probes)


@pytest.mark.parametrize(
    "probe",
    [
        interp.KeyMass(torch.ones(12, 1)),
        interp.LabelMatch(torch.zeros(1, dtype=torch.long), torch.zeros(12, dtype=torch.long)),
    ],
)
def test_tensors_that_do_not_follow_the_text(own_model, probe: Probe):
    with pytest.raises(InputError, match=r"expected values for the 13 keys of this step \(Step.keys\), got \[12"):
        interp.load(own_model("mistral")).generate(PROMPT, 3, lambda step: [probe])


def test_layers_that_do_not_exist(model):
    with pytest.raises(InputError, match="layer 7 does not exist"):
        model.generate(PROMPT, 3, layers=[7])


def test_a_text_without_a_tokenizer_and_an_empty_prompt(model, own_model, tokenizer):
    with pytest.raises(InputError, match="this model has no tokenizer"):
        model.generate("w5 w6", 3)
    with pytest.raises(InputError, match="is empty"):
        interp.load(own_model("llama"), tokenizer=tokenizer).generate("", 3)
    with pytest.raises(InputError, match="padding alone"):
        model.generate({"input_ids": PROMPT, "attention_mask": torch.zeros_like(PROMPT)}, 3)


def test_models_that_cannot_generate():
    bare = interp.load(ARCHITECTURES["llama"].build().base_model)
    with pytest.raises(InputError, match="LlamaModel cannot generate; load the model with its language-model head"):
        bare.generate(PROMPT, 3)
    config: Any = BERT.build().config
    with pytest.raises(InputError, match="BertForMaskedLM cannot generate"):
        interp.load(BertForMaskedLM(config).eval()).generate(PROMPT, 3)


def test_a_class_with_a_generate_of_its_own(own_model):
    model = ARCHITECTURES["llama"].build()

    class Own(type(model)):
        def generate(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("the class's own was called")

    model.__class__ = Own
    with pytest.raises(InputError, match="Own generates in a way of its own"):
        interp.load(model).generate(PROMPT, 3)


def test_a_cache_that_does_not_say_where_its_query_stands():
    """MiniMax sizes its masks by a layer that keeps no keys; the library's fused path does not look at them."""
    entry = next(entry for entry in HYBRIDS if entry.model == "MiniMaxForCausalLM")
    with pytest.raises(
        RunError, match="layer 1: after 13 tokens the cache of MiniMaxForCausalLM puts its query at position 0"
    ):
        interp.load(entry.build()).generate(PROMPT, 3)


def test_edits_in_a_model_that_knows_no_cache():
    model = interp.load(next(each for each in OWN_CODE if each.model == "OpenAIGPTLMHeadModel").build())
    with model.edited(edits.ablate("L0H0")), pytest.raises(InputError, match="knows no cache and reads the whole text"):
        model.generate(PROMPT, 3)


def test_training_mode():
    model = ARCHITECTURES["llama"].build()
    loaded = interp.load(model)
    model.train()
    with pytest.raises(InputError, match="LlamaForCausalLM is in training mode"):
        loaded.generate(PROMPT, 3)


def test_broken_logits():
    model = ARCHITECTURES["llama"].build()
    with torch.no_grad():
        model.lm_head.weight[3, 3] = torch.inf
    with pytest.raises(RunError, match="NaN or infinity in the logits of new token 0, after the attention of layer 1"):
        interp.load(model).generate(PROMPT, 3)


def test_statistics_that_are_not_there_or_cannot_be_stacked(own_model):
    generation = interp.load(own_model("llama")).generate(PROMPT, 3, ["received"])
    with pytest.raises(InputError, match="received has a key axis, which grows from step to step"):
        generation.stacked("received")
    with pytest.raises(InputError, match="no statistic 'entropy'"):
        generation.stacked("entropy")
