"""Too large a generation is refused before it begins; an allocation that fails in it says what was needed."""

from __future__ import annotations

import re

import pytest
import torch

import interp
from interp.errors import InputError, RunError
from interp.generation.needs import needs_of_generation
from interp.inputs.batch import Batch
from tests.interp.tiny import ARCHITECTURES, token_ids

IDS = token_ids((2, 12))
NEW = 6


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_arithmetic_is_what_a_generation_holds(name: str, own_model):
    model = interp.load(own_model(name))
    probes = [interp.Entropy(), interp.Peak(), interp.TopK(3), interp.Received()]
    batch = Batch(IDS, torch.ones_like(IDS, dtype=torch.bool))
    needs = needs_of_generation(model, batch, set(model.layers), probes, probes, NEW)
    generation = model.generate(IDS, NEW, probes, min_new_tokens=NEW)
    held = [x for layers in generation.prefill.stats.values() for x in layers.values()]
    for step in generation.steps:
        held += [x for layers in step.stats.values() for x in layers.values()]
    received = 4 * 2 * 4 * len(model.layers)  # a float of each of 2 sequences, 4 heads and every layer, for each key
    # The keys of step n are 12 + n: counted as 12 + NEW / 2 each, half a key more than their mean.
    assert needs.total - sum(x.nbytes for x in held) == NEW * received // 2


def test_a_generation_that_cannot_fit_is_refused_before_it_begins(own_model):
    model = own_model("llama")
    ran: list[int] = []
    handle = model.get_input_embeddings().register_forward_hook(lambda *_: ran.append(1))
    with pytest.raises(InputError, match=r"results need .* new tokens .* and cpu has .* free; what would fit"):
        interp.load(model).generate(IDS, NEW, [interp.TopK(10**13)])
    handle.remove()
    assert not ran


@pytest.mark.parametrize("step", [0, 2])
def test_probes_of_a_step_that_cannot_fit_are_refused_before_they_are_measured(own_model, step: int):
    def probes(at: interp.Step) -> list[interp.TopK]:
        return [interp.TopK(10**12 if at.number == step else 1)]

    with pytest.raises(
        InputError, match=r"results need 192,000\.0 GB \(top_k 192,000\.0 GB; 2 layers, 2 x 12 tokens\)"
    ):
        interp.load(own_model("llama")).generate(IDS, 4, probes, min_new_tokens=4)


def test_running_out_of_memory_says_what_was_needed():
    model = ARCHITECTURES["llama"].build()
    model.model.layers[1].register_forward_hook(lambda *_: [torch.empty(10**15, dtype=torch.uint8), None][1])
    before = model.config._attn_implementation
    with pytest.raises(RunError, match=re.escape("the run went out of memory on cpu")):
        interp.load(model).generate(IDS, NEW)
    assert model.config._attn_implementation == before
