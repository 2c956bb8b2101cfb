"""What a capture holds: the layers that were asked for, tokens, logits on request, lazy maps, facts."""

from __future__ import annotations

import pytest
import torch

import interp
from interp.errors import InputError
from interp.inputs.batch import Batch
from tests.interp import dense
from tests.interp.tiny import ARCHITECTURES, HEADS, LAYERS, NAMES, right_padded, token_ids

IDS = token_ids((2, 30))


def test_only_asked_layers_are_recorded(own_model):
    capture = interp.load(own_model("llama")).capture(IDS, ["entropy", "received"], layers=[1])
    assert capture.layers == (1,)
    assert {name: sorted(values) for name, values in capture.stats.items()} == {"entropy": [1], "received": [1]}
    assert list(capture.masks) == [1]


def test_all_layers_are_recorded_by_default(own_model):
    capture = interp.load(own_model("llama")).capture(IDS)
    assert capture.layers == tuple(range(LAYERS))
    assert list(capture.stats) == ["entropy", "peak", "peak_index"]
    assert all(sorted(values) == list(range(LAYERS)) for values in capture.stats.values())
    assert capture.stacked("entropy").shape == (LAYERS, 2, HEADS, 30)
    assert torch.equal(capture.stacked("entropy")[1], capture["entropy"][1])


@pytest.mark.parametrize("name", NAMES)
def test_without_logits_nothing_is_projected_to_the_vocabulary(name: str, own_model):
    model = own_model(name)
    projected = []
    head = model.get_output_embeddings()
    handle = head.register_forward_hook(lambda *_: projected.append(1))
    try:
        capture = interp.load(model).capture(IDS)
        assert capture.logits is None
        assert not projected
        assert interp.load(model).capture(IDS, logits=True).logits is not None
        assert projected == [1]
    finally:
        handle.remove()


@pytest.mark.parametrize("padding", [(40, 40), (17, 40)], ids=["unpadded", "right-padded"])
@pytest.mark.parametrize("name", [*NAMES, "bert"])
def test_lazy_maps_equal_the_models_own(name: str, padding: tuple[int, ...], own_model, eager_model):
    lists, ids, keep = right_padded(padding)
    maps = interp.load(own_model(name)).maps(lists)
    assert sorted(maps) == list(range(LAYERS))
    for layer, own in enumerate(dense.eager_maps(eager_model(name), ids, keep)):
        rows = keep[:, None].expand(-1, HEADS, -1)
        torch.testing.assert_close(maps[layer].dense()[rows].double(), own[rows], rtol=0, atol=3e-5)
        later = maps[layer].rows([5, 11])[:, :, 1]
        torch.testing.assert_close(later.double(), own[:, :, 11], rtol=0, atol=3e-5)


def test_maps_of_asked_layers_only(own_model):
    assert list(interp.load(own_model("llama")).maps(IDS, layers=[1])) == [1]


def test_a_head_that_does_not_exist(own_model):
    lazy = interp.load(own_model("llama")).maps(IDS)[0]
    with pytest.raises(IndexError, match=rf"head: expected an index in \[-{HEADS}, {HEADS}\), got 99"):
        lazy.head(0, 99)


@pytest.mark.parametrize("layers", [[2], [-1], [0, 7], ["encoder.0", 9], [0.5]], ids=repr)
def test_a_layer_that_does_not_exist(layers, own_model):
    model = interp.load(own_model("llama"))
    for ask in (model.capture, model.maps):
        with pytest.raises(InputError, match=r"layer \S+ does not exist: .* has layers 0 to 1"):
            ask(IDS, layers=layers)


def test_layers_must_be_several(own_model):
    with pytest.raises(InputError, match=r"layers: expected layers such as \[0, 1\] or \['encoder.0'\], got 1"):
        interp.load(own_model("llama")).capture(IDS, layers=1)


def test_heads_are_numbered_by_query_head(own_model):
    capture = interp.load(own_model("llama")).capture(IDS)
    assert (capture.heads, capture.kv_heads) == (HEADS, 2)
    assert capture["entropy"][0].shape == (2, HEADS, 30)


def test_tokens_without_a_tokenizer_are_their_ids(own_model):
    lists, ids, keep = right_padded((3, 5))
    capture = interp.load(own_model("llama")).capture(lists)
    assert capture.tokens == [[str(i) for i in row] for row in lists]
    assert torch.equal(capture.ids, ids)
    assert torch.equal(capture.keep, keep)


def test_tokens_are_readable_with_a_tokenizer(own_model, tokenizer):
    capture = interp.load(own_model("llama"), tokenizer=tokenizer).capture(["w5 w6", "w7 w5 w9"])
    assert capture.tokens == [["<s>", "w5", "w6"], ["<s>", "w7", "w5", "w9"]]
    assert capture.keep.tolist() == [[True, True, True, False], [True] * 4]


def test_facts_say_what_was_run(own_model):
    facts = interp.load(own_model("llama")).capture(IDS).facts
    assert facts["model"] == facts["architecture"] == "LlamaForCausalLM"
    assert (facts["dtype"], facts["device"], facts["beyond_context"]) == ("float32", "cpu", False)
    assert facts["versions"]["torch"] == torch.__version__


def test_probes_by_name_and_as_objects(own_model):
    model = interp.load(own_model("llama"))
    capture = model.capture(IDS, ["distance", interp.OffsetMass((1,))])
    assert list(capture.stats) == ["distance", "offset_mass"]
    assert list(model.capture(IDS, "entropy").stats) == ["entropy"]
    assert list(model.capture(IDS, interp.Entropy()).stats) == ["entropy"]


def test_an_unknown_probe_shows_the_nearest(own_model):
    with pytest.raises(InputError, match=r"unknown probe 'entrpy'; did you mean 'entropy'\? .*interp\.OffsetMass"):
        interp.load(own_model("llama")).capture(IDS, ["entrpy"])


def test_an_unknown_statistic_shows_the_nearest(own_model):
    capture = interp.load(own_model("llama")).capture(IDS)
    with pytest.raises(InputError, match=r"no statistic 'entropies'; did you mean 'entropy'\?"):
        capture["entropies"]


def test_a_model_without_a_head_gives_no_logits():
    model = ARCHITECTURES["llama"].build().base_model
    hooked = interp.load(model)
    assert hooked.capture(IDS).logits is None
    with pytest.raises(InputError, match="LlamaModel gives no logits; load it with its language-model head"):
        hooked.capture(IDS, logits=True)


def test_representations(own_model):
    model = interp.load(own_model("llama"))
    shown = (
        f"HookedModel(LlamaForCausalLM: LlamaForCausalLM, {LAYERS} layers x {HEADS} heads on 2 KV heads, context 256"
    )
    assert repr(model).startswith(shown)
    capture = model.capture(Batch(IDS, torch.ones_like(IDS, dtype=torch.bool)), ["entropy"])
    assert repr(capture) == "Capture(LlamaForCausalLM: 2 x 30 tokens, 2 layers x 4 heads, statistics: entropy)"
