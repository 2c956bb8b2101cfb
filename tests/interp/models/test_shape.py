"""What is read off a model: layers, heads, context, positions, and whether its attention looks back only."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

from interp.models.layers import attention_layers
from interp.models.shape import ModelShape, model_shape
from tests.interp.tiny import ARCHITECTURES, CONTEXT, HEADS, LAYERS, NAMES, VOCABULARY, WIDTHS
from tests.interp.zoo.zoo import ZOO


def shape_of(model: transformers.PreTrainedModel) -> ModelShape:
    return model_shape(model, attention_layers(model, model.config))


@pytest.mark.parametrize("name", [*NAMES, "bert"])
def test_numbers_of_each_architecture(name: str, own_model):
    expected = ModelShape(
        layers=LAYERS,
        heads=HEADS,
        kv_heads=ARCHITECTURES[name].kv_heads if name in ARCHITECTURES else HEADS,
        vocabulary=VOCABULARY,
        context=CONTEXT,
        has_relative_positions=name in ARCHITECTURES and ARCHITECTURES[name].is_rotary,
        is_causal=name != "bert",
        takes_position_ids=True,
    )
    assert shape_of(own_model(name)) == expected


def test_a_decoder_made_to_see_both_ways():
    """transformers lets a configuration switch the causal rule off."""
    model = ARCHITECTURES["llama"].build()
    model.config.is_causal = False
    assert not shape_of(model).is_causal


def test_an_encoder_made_a_decoder():
    sizes: dict[str, Any] = dict(WIDTHS)
    config = transformers.BertConfig(**sizes, vocab_size=11, is_decoder=True)
    assert shape_of(transformers.BertLMHeadModel(config)).is_causal


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("T5ForConditionalGeneration", {"layers": LAYERS, "heads": HEADS, "vocabulary": VOCABULARY, "is_causal": True}),
        ("WhisperForConditionalGeneration", {"layers": LAYERS, "heads": HEADS, "vocabulary": VOCABULARY}),
        ("CLIPModel", {"layers": LAYERS, "heads": HEADS, "vocabulary": VOCABULARY, "is_causal": False}),
        ("ViTModel", {"layers": LAYERS, "heads": HEADS, "vocabulary": 0, "context": None, "is_causal": False}),
        ("Wav2Vec2Model", {"layers": LAYERS, "heads": HEADS, "vocabulary": 0, "context": None}),
        ("SwinModel", {"heads": 2, "vocabulary": 0, "is_causal": False}),
        (
            "LlavaForConditionalGeneration",
            {"layers": LAYERS, "kv_heads": 2, "vocabulary": VOCABULARY, "is_causal": True},
        ),
        ("Qwen3NextForCausalLM", {"layers": LAYERS, "kv_heads": 2, "has_relative_positions": True}),
        ("FalconForCausalLM", {"layers": LAYERS, "heads": HEADS, "takes_position_ids": True}),
        ("BloomForCausalLM", {"layers": LAYERS, "heads": HEADS, "takes_position_ids": False}),
        ("MptForCausalLM", {"context": CONTEXT, "takes_position_ids": False}),
    ],
)
def test_other_kinds_of_models(name: str, expected: dict[str, object]):
    shape = shape_of(next(entry for entry in ZOO if entry.model == name).build())
    assert {field: getattr(shape, field) for field in expected} == expected
