"""Generation: the tokens are transformers' own, batches and their ends, what a step holds, and that nothing is left behind."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MaxLengthCriteria

import interp
from tests.interp.tiny import ARCHITECTURES, HEADS, LAYERS, NAMES, token_ids
from tests.interp.words import EOS, PAD, text_of

PROMPT = token_ids((2, 12), seed=8)
SAMPLING = {"do_sample": True, "temperature": 8.0, "top_k": 20, "top_p": 0.9}


def library(model: Any, ids: Tensor, keep: Tensor | None = None, seed: int | None = None, **settings: Any) -> Tensor:
    """What transformers' own generate gives, from its own fused attention."""
    with torch.random.fork_rng():
        if seed is not None:
            torch.manual_seed(seed)
        keep = torch.ones_like(ids) if keep is None else keep
        return model.generate(ids, attention_mask=keep, **settings)


def words(ids: Tensor) -> str:
    """Their text without special tokens."""
    return text_of(i for i in ids.tolist() if i > PAD)


@pytest.mark.parametrize("name", NAMES)
def test_greedy_tokens_are_the_librarys(name, own_model):
    expected = library(own_model(name), PROMPT, max_new_tokens=10, do_sample=False)
    assert torch.equal(interp.load(own_model(name)).generate(PROMPT, 10).ids, expected)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_sampled_tokens_are_the_librarys_with_that_seed(name, own_model):
    model = interp.load(own_model(name))
    drawn = [model.generate(PROMPT, 10, seed=seed, **SAMPLING).ids for seed in (3, 3, 4)]
    assert torch.equal(drawn[0], library(own_model(name), PROMPT, seed=3, max_new_tokens=10, **SAMPLING))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_random_numbers_of_the_caller_go_on_as_they_would_have(own_model):
    model = interp.load(own_model("llama"))
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    model.generate(PROMPT, 3, **SAMPLING)
    assert torch.equal(torch.rand(3), expected)


def test_penalties_are_the_librarys(own_model):
    settings = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 2, "min_new_tokens": 9}
    expected = library(own_model("llama"), PROMPT, max_new_tokens=10, do_sample=False, **settings)
    generation = interp.load(own_model("llama")).generate(PROMPT, 10, **settings)
    assert torch.equal(generation.ids, expected)
    assert generation.facts["generation"]["repetition_penalty"] == 5.0


def test_settings_of_the_model_hold_but_for_sampling_and_beams():
    model = ARCHITECTURES["llama"].build()
    plain = interp.load(model).generate(PROMPT, 8).ids
    model.generation_config.do_sample = True
    model.generation_config.temperature = 3.0
    model.generation_config.num_beams = 4
    model.generation_config.early_stopping = True
    assert torch.equal(interp.load(model).generate(PROMPT, 8).ids, plain)
    model.generation_config.suppress_tokens = plain[:, 12].tolist()
    assert not set(interp.load(model).generate(PROMPT, 8).new_ids.flatten().tolist()) & set(plain[:, 12].tolist())


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3", "gpt2", "opt"])
def test_each_prompt_of_a_batch_is_as_alone(name, own_model):
    """Padding stands on the left and never counts; positions are columns of the batch."""
    model = interp.load(own_model(name))
    prompts = [row[:n].tolist() for row, n in zip(token_ids((3, 15), seed=2), (15, 4, 9), strict=True)]
    statistics = ["entropy", "distance", interp.OffsetMass((0, 3))]
    batch: Any = model.generate(prompts, 9, [*statistics, "peak", "received"], min_new_tokens=9)
    assert batch.keep.sum(dim=1).tolist() == [24, 13, 18]
    for row, prompt in enumerate(prompts):
        padding = 15 - len(prompt)
        assert bool((batch.ids[row, :padding] == PAD).all())
        alone: Any = model.generate(prompt, 9, [*statistics, "peak", "received"], min_new_tokens=9)
        assert torch.equal(batch.ids[row, padding:], alone.ids[0])
        for statistic in ("entropy", "distance", "offset_mass"):
            for layer, value in batch.stacked(statistic).items():
                torch.testing.assert_close(value[row], alone.stacked(statistic)[layer][0], rtol=0, atol=1e-4)
        for layer in range(LAYERS):
            index = batch.stacked("peak_index")[layer][row]
            assert torch.equal(index - padding, alone.stacked("peak_index")[layer][0])
            for mine, its in zip(batch.steps, alone.steps, strict=True):
                assert bool((mine["received"][layer][row, :, :padding] == 0).all())
                received = mine["received"][layer][row, :, padding:]
                torch.testing.assert_close(received, its["received"][layer][0], rtol=0, atol=1e-5)
            rows = batch.prefill["entropy"][layer][row]
            assert bool(rows[:, :padding].isnan().all())
            torch.testing.assert_close(rows[:, padding:], alone.prefill["entropy"][layer][0], rtol=0, atol=1e-4)


def ended(model: interp.HookedModel, steps: int = 10) -> tuple[int, Any]:
    """A generation of two prompts whose first sequence ends in the middle, and at which new token."""
    free = model.generate(PROMPT, steps, min_new_tokens=steps).new_ids
    at = next(n for n in range(1, steps - 2) if free[0, n] not in free[0, :n] and free[0, n] not in free[1])
    return at, model.generate(PROMPT, steps, ["entropy", "peak", "received"], eos_token_id=int(free[0, at]))


def test_rows_after_the_end_of_a_sequence_do_not_count(own_model):
    at, generation = ended(interp.load(own_model("gpt2")))
    assert generation.new_keep[0].tolist() == [n <= at for n in range(10)]
    assert bool(generation.new_keep[1].all())
    assert bool((generation.new_ids[0, at + 1 :] == PAD).all())
    for n, step in enumerate(generation.steps):
        assert step.keep[:, 0].tolist() == [n <= at, True]
        for layer in range(LAYERS):
            for name in ("entropy", "peak", "received"):
                assert bool(step[name][layer][0].isnan().all()) is (n > at)
                assert not bool(step[name][layer][1].isnan().any())
            assert bool((step["peak_index"][layer][0] == -1).all()) is (n > at)


@pytest.mark.parametrize("own", [None, -1])
def test_padding_that_the_model_has_no_embedding_for_is_not_read(own: int | None, tokenizer):
    """As of a tokenizer that was given a token of padding, and a model that was not; or of settings that say -1."""
    model = ARCHITECTURES["llama"].build()
    model.generation_config.pad_token_id = model.config.pad_token_id = None
    expected = interp.load(model).generate([[5, 6, 7], [8, 9]], 6, eos_token_id=list(range(20, 61)))
    added = copy.deepcopy(tokenizer)
    added.add_special_tokens({"pad_token": "<padding>"})
    assert added.pad_token_id >= model.config.vocab_size
    model.generation_config.pad_token_id = own
    generation = interp.load(model, tokenizer=added).generate([[5, 6, 7], [8, 9]], 6, eos_token_id=list(range(20, 61)))
    assert generation.ids.max() < model.config.vocab_size
    assert (generation.new_keep.sum(dim=1) < 6).any(), "one ends before the other"
    assert torch.equal(generation.new_ids, expected.new_ids)
    for step, alike in zip(generation.steps, expected.steps, strict=True):
        torch.testing.assert_close(step["entropy"], alike["entropy"], equal_nan=True)


def test_generation_stops_when_every_sequence_has_ended(own_model, tokenizer):
    model = interp.load(own_model("gpt2"), tokenizer=tokenizer)
    free = model.generate(PROMPT[0], 6, min_new_tokens=6)
    generation = model.generate(PROMPT[0], 6, eos_token_id=[EOS, int(free.new_ids[0, 2])])
    first = free.new_ids[0].tolist().index(int(free.new_ids[0, 2]))
    assert generation.new_ids.tolist() == [free.new_ids[0, : first + 1].tolist()]
    assert len(generation.steps) == first + 1


def test_stopping_criteria_end_sequences(own_model):
    model = interp.load(own_model("gpt2"))
    assert len(model.generate(PROMPT, 9, stopping=[MaxLengthCriteria(16)], min_new_tokens=9).steps) == 4


def test_text_and_tokens(own_model, tokenizer):
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    one: Any = model.generate("w5 w6 w7", 4, ["entropy", "received"], min_new_tokens=4)
    assert one.text == words(one.new_ids[0])
    assert one.prefill.tokens == [["<s>", "w5", "w6", "w7"]]
    names = model.token_strings(one.new_ids[0, :-1].tolist())
    assert [step.tokens for step in one.steps] == [[["w7"]], *([[name]] for name in names)]
    assert [step.ids.tolist() for step in one.steps] == one.ids[0, 3:-1, None, None].tolist()
    assert one.steps[1].keys(0).tokens == [["<s>", "w5", "w6", "w7", names[0]]]
    assert one.steps[1].queries(0).first == 4
    several = model.generate(["w5 w6 w7", "w9"], 4, min_new_tokens=4)
    assert several.text == [words(row) for row in several.new_ids]
    assert interp.load(own_model("llama")).generate(PROMPT, 2).text is None


def test_shapes_and_names(own_model):
    generation: Any = interp.load(own_model("llama")).generate(
        PROMPT, 5, ["entropy", interp.TopK(3), "received"], layers=[1], min_new_tokens=5
    )
    assert {layer: value.shape for layer, value in generation.stacked("top_k").items()} == {1: (2, HEADS, 5, 3)}
    assert generation.stacked("entropy")[1].shape == (2, HEADS, 5)
    assert [step["received"][1].shape[-1] for step in generation.steps] == [12, 13, 14, 15, 16]
    assert generation.prefill["entropy"][1].shape == (2, HEADS, 12)
    assert generation.prompt == 12
    assert generation.steps[2].facts["step"] == 2
    assert repr(generation) == (
        "Generation(LlamaForCausalLM: 2 x 12 + 5 tokens, statistics: entropy, top_k, top_k_index, received)"
    )


def test_prompts_are_measured_as_asked(own_model):
    model = interp.load(own_model("llama"))
    assert model.generate(PROMPT, 2, ["entropy"], prefill_probes=None).prefill is None
    pooled: Any = model.generate(PROMPT, 2, ["entropy"], prefill_probes=[interp.Pooled(4)])
    assert list(pooled.prefill.stats) == ["pooled"]
    assert list(pooled.steps[0].stats) == ["entropy"]
    function: Any = model.generate(PROMPT, 2, lambda step: ["entropy"])
    assert list(function.prefill.stats) == []


def test_a_function_of_the_step_is_told_where_the_text_stands(own_model):
    told: list[interp.Step] = []

    def probes(step: interp.Step) -> list[str]:
        told.append(step)
        return ["entropy"]

    generation = interp.load(own_model("gemma3")).generate([[5, 6, 7], [8]], 4, probes, min_new_tokens=4)
    assert [(step.number, step.keys, step.prompt, step.stack) for step in told] == [(n, 3 + n, 3, "") for n in range(4)]
    for n, step in enumerate(told):
        assert torch.equal(step.ids, generation.ids[:, : 3 + n])
        assert torch.equal(step.keep, generation.keep[:, : 3 + n])
        assert step.unfinished.tolist() == [True, True]


def test_prompts_padded_by_hand(own_model):
    """A tokenizer's own output, padded on either side."""
    model = interp.load(own_model("llama"))
    right, left = torch.tensor([[5, 6, 7], [8, PAD, PAD]]), torch.tensor([[5, 6, 7], [PAD, PAD, 8]])
    expected = model.generate([[5, 6, 7], [8]], 4, min_new_tokens=4)
    for ids in (right, left):
        generation = model.generate({"input_ids": ids, "attention_mask": ids != PAD}, 4, min_new_tokens=4)
        assert torch.equal(generation.ids, expected.ids)
        assert torch.equal(generation.keep, expected.keep)


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_edits_apply_to_every_step(name, own_model):
    """A head that attends uniformly has the entropy ln(visible keys), in the prompt and at every step."""
    model = interp.load(own_model(name))
    with model.edited([interp.edits.uniform("L1H2")]):
        generation = model.generate(PROMPT, 8, ["entropy"], min_new_tokens=8)
    visible = torch.arange(12, 20).clamp(max=ARCHITECTURES[name].windows[1] or 20).log().expand(2, -1)
    torch.testing.assert_close(generation.stacked("entropy")[1][:, 2], visible, rtol=0, atol=1e-5)
    assert not torch.allclose(generation.stacked("entropy")[1][:, 1], visible)
    assert not torch.equal(generation.ids, model.generate(PROMPT, 8, min_new_tokens=8).ids)


def test_runs_from_within_and_of_other_threads_are_no_steps(own_model):
    """A function of the step may capture the text so far; another thread may run and capture the model between steps."""
    model = interp.load(own_model("llama"))
    expected = model.generate(PROMPT, 5, ["entropy"], min_new_tokens=5)
    full: list[Tensor] = []

    def probes(step: interp.Step) -> list[str]:
        full.append(model.capture(step.ids, ["entropy"], logits=True)["entropy"][1][:, :, -1:])
        with ThreadPoolExecutor(1) as other:
            other.submit(model.capture, PROMPT[:, :4], ["entropy"]).result()
            other.submit(model, PROMPT[:, :4]).result()
        return ["entropy"]

    generation = model.generate(PROMPT, 5, probes, min_new_tokens=5)
    assert torch.equal(generation.ids, expected.ids)
    for mine, its, captured in zip(generation.steps, expected.steps, full, strict=True):
        assert torch.equal(mine["entropy"][1], its["entropy"][1])
        torch.testing.assert_close(mine["entropy"][1], captured, rtol=0, atol=1e-4)


def test_the_model_is_left_as_it_was():
    model = ARCHITECTURES["llama"].build()
    settings = copy.deepcopy(model.generation_config.to_dict())
    before = library(model, PROMPT, max_new_tokens=5, do_sample=False)

    def interrupted(step: interp.Step) -> list[str]:
        if step.number == 2:
            raise KeyboardInterrupt
        return ["entropy"]

    with pytest.raises(KeyboardInterrupt):
        interp.load(model).generate(PROMPT, 5, interrupted)
    assert model.config._attn_implementation == "sdpa"
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert model.generation_config.to_dict() == settings
    assert torch.equal(library(model, PROMPT, max_new_tokens=5, do_sample=False), before)


def test_progress_goes_to_stderr(own_model, capfd):
    model = interp.load(own_model("llama"))
    model.generate(PROMPT, 3)
    assert capfd.readouterr().err == ""
    model.generate(PROMPT, 3, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "generate LlamaForCausalLM" in err
