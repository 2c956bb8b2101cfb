"""Integers of numpy and torch, and arrays of them, wherever an int or a list of ints is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp import edits
from interp.errors import InputError
from tests.interp.tiny import token_ids

IDS = token_ids((1, 6))
ONE = [np.int64, np.uint8, np.array, torch.tensor]
SEVERAL: list[Callable[[list[Any]], Any]] = [
    np.array,
    torch.tensor,
    lambda values: [np.int32(value) for value in values],
]


@pytest.fixture
def model(own_model, tokenizer) -> interp.HookedModel:
    return interp.load(own_model("llama"), tokenizer=tokenizer)


@pytest.mark.parametrize("several", SEVERAL, ids=["numpy", "torch", "list"])
def test_layers(several: Any, model):
    assert model.capture(IDS, layers=several([1])).layers == (1,)
    assert set(model.maps(IDS, layers=several([0, 1]))) == {0, 1}
    with pytest.raises(InputError, match=r"layer .*7.* does not exist: LlamaForCausalLM has layers 0 to 1"):
        model.capture(IDS, layers=several([0, 7]))


@pytest.mark.parametrize("of", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_heads(of: Any, model):
    for heads, expected in ((of([1, 2]), {1: (2,)}), (of([[0, 1], [1, 2]]), {0: (1,), 1: (2,)})):
        measured = model.capture(IDS, heads=heads).measured
        assert {layer: how.heads for layer, how in measured.items()} == expected
        for edit in (edits.ablate(heads), edits.cut(keys=0, heads=heads)):
            assert edit.on(model).chosen == expected
    assert repr(edits.ablate(of([[0, 1], [1, 2]]))) == "ablate(heads=([0, 1], [1, 2]))"
    assert repr(edits.ablate(layers=of([0]))) == "ablate(heads='all', layers=(0,))"


@pytest.mark.parametrize("one", ONE, ids=["int64", "uint8", "array", "tensor"])
def test_numbers_of_a_generation(one: Any, model):
    plain = model.generate(IDS, 4, [], do_sample=True, seed=3, top_k=5, min_new_tokens=4, no_repeat_ngram_size=2)
    given = model.generate(
        IDS, one(4), [], do_sample=True, seed=one(3), top_k=one(5), min_new_tokens=one(4), no_repeat_ngram_size=one(2)
    )
    assert torch.equal(given.ids, plain.ids)
    assert repr(given.facts["generation"]) == repr(plain.facts["generation"])


def test_settings_of_a_generation_in_arrays(model):
    plain = model.generate(IDS, 4, [], suppress_tokens=[4, 5], eos_token_id=[1, 6], repetition_penalty=1.5)
    given = model.generate(
        IDS,
        4,
        [],
        suppress_tokens=np.array([4, 5]),
        eos_token_id=torch.tensor([1, 6]),
        repetition_penalty=np.float32(1.5),
    )
    assert torch.equal(given.ids, plain.ids)
    assert given.facts["generation"] == plain.facts["generation"]


@pytest.mark.parametrize("ids", [np.array([4, 5]), torch.tensor([4, 5]), [np.int64(4), np.int64(5)], [4, 5]], ids=repr)
def test_one_sequence_of_ids_gives_one_text(ids: Any, model):
    assert isinstance(model.generate(ids, 2, []).text, str)
    assert isinstance(model.generate([ids], 2, []).text, list)


@pytest.mark.parametrize("one", ONE, ids=["int64", "uint8", "array", "tensor"])
def test_windows_and_positions(one: Any, model):
    text = " ".join(["w5"] * 30)
    assert len(model.windows(text, length=one(9), stride=one(4))) == len(model.windows(text, length=9, stride=4))
    for where in (one(1), [one(1)], slice(one(1), one(2))):
        with model.edited(edits.cut(keys=where, heads="L0H0")):
            p = model.maps(IDS, layers=[0])[0].dense()
        assert bool((p[0, 0, 2:, 1] == 0).all())
    assert repr(edits.cut(pairs=[(one(5), one(0))])) == repr(edits.cut(pairs=[(5, 0)]))
    assert edits.hidden_sinks(model, IDS, min_queries=one(2)).keys() == {0, 1}
