"""What the layers of a model are called, and which modules serve which."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

import interp
from interp.models.layers import LayerKey, attention_layers
from tests.interp.tiny import COMMON, GROUPED, HEADS, WIDTHS
from tests.interp.zoo.encoder_decoders import BART
from tests.interp.zoo.entry import Entry
from tests.interp.zoo.zoo import ZOO


def built(name: str) -> PreTrainedModel:
    return next(entry for entry in ZOO if entry.model == name).build()


def paths(model: PreTrainedModel) -> dict[LayerKey, str]:
    return {each.key: each.path for served in attention_layers(model, model.config).values() for each in served}


def test_a_decoder_is_numbered_by_its_blocks():
    assert paths(built("LlamaForCausalLM")) == {0: "model.layers.0.self_attn", 1: "model.layers.1.self_attn"}


def test_numbers_of_a_hybrid_are_the_models_own():
    """Layer 0 is linear attention, which makes no map."""
    assert paths(built("Qwen3NextForCausalLM")) == {1: "model.layers.1.self_attn"}


def test_an_encoder_decoder_has_three_stacks():
    found = paths(built("BartForConditionalGeneration"))
    assert found["encoder.1"] == "model.encoder.layers.1.self_attn"
    assert found["decoder.0"] == "model.decoder.layers.0.self_attn"
    assert found["cross.0"] == "model.decoder.layers.0.encoder_attn"
    assert len(found) == 6


def test_the_decoder_of_an_encoder_decoder_alone():
    config = transformers.BartConfig(**BART, is_decoder=True, is_encoder_decoder=False)
    found = paths(transformers.BartForCausalLM(config))
    assert set(found) == {0, 1, "cross.0", "cross.1"}


def test_a_shared_module_serves_a_layer_for_each_of_its_runs():
    """ALBERT runs one module again and again."""
    model = built("AlbertModel")
    (served,) = attention_layers(model, model.config).values()
    assert [layer.key for layer in served] == [0, 1, 2]


@pytest.mark.parametrize(
    ("groups", "inner", "expected"),
    [(2, 1, [[0, 1], [2, 3]]), (1, 2, [[0, 2, 4, 6], [1, 3, 5, 7]]), (2, 2, [[0, 2], [1, 3], [4, 6], [5, 7]])],
)
def test_groups_of_shared_modules(groups: int, inner: int, expected: list[list[int]]):
    """Four layers of ``inner`` modules each; the first half of them runs the first group."""
    sizes: dict[str, Any] = {**WIDTHS, **COMMON, "num_hidden_layers": 4, "embedding_size": 16}
    config = transformers.AlbertConfig(**sizes, num_hidden_groups=groups, inner_group_num=inner)
    model = transformers.AlbertModel(config)
    assert [[layer.key for layer in served] for served in attention_layers(model, config).values()] == expected


def test_a_module_that_stands_at_several_places_serves_each():
    model = built("LlamaForCausalLM")
    model.model.layers[1].self_attn = model.model.layers[0].self_attn
    (served,) = attention_layers(model, model.config).values()
    assert [layer.key for layer in served] == [0, 1]
    assert interp.load(model).capture([[5, 6, 7]]).layers == (0, 1)


def test_towers_and_the_language_model_beside_them():
    assert list(paths(built("CLIPModel"))) == ["text.0", "text.1", "vision.0", "vision.1"]
    assert set(paths(built("LlavaForConditionalGeneration"))) == {"vision.0", "vision.1", 0, 1}


def test_a_tower_alone_has_ints():
    assert list(paths(built("CLIPVisionModel"))) == [0, 1]


def test_a_tower_that_looks_at_another():
    text = GROUPED | {"model_type": "opt", "ffn_dim": 48, "word_embed_proj_dim": 32}
    tower = WIDTHS | {"image_size": 16, "patch_size": 8}
    reader = WIDTHS | {"encoder_hidden_size": 32, "vocab_size": 61, "cross_attention_frequency": 2}
    config = transformers.Blip2Config(vision_config=tower, qformer_config=reader, text_config=text, num_query_tokens=2)
    with torch.device("meta"):
        found = set(paths(transformers.Blip2ForConditionalGeneration(config)))
    assert found == {"vision.0", "vision.1", "qformer.0", "qformer.1", "qformer_cross.0", 0, 1}


@pytest.mark.parametrize("entry", ZOO[:1])
def test_heads_are_those_of_the_queries(entry: Entry):
    model = entry.build()
    assert {each.heads for served in attention_layers(model, model.config).values() for each in served} == {HEADS}
