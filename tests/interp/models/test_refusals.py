"""Whose error it is: of an input, of the user's own hook, or of the state of the model."""

from __future__ import annotations

import pytest
import torch
import transformers

import interp
from interp.errors import InputError
from tests.interp.tiny import ARCHITECTURES, token_ids

IDS = token_ids((1, 6))


def test_an_error_of_the_users_hook_stays_what_it_is():
    model = ARCHITECTURES["llama"].build()

    def broken(*_: object) -> None:
        raise ValueError("a bug of my own")

    model.get_input_embeddings().register_forward_hook(broken)
    with pytest.raises(ValueError, match=r"^a bug of my own$") as caught:
        interp.load(model).capture(IDS)
    assert not isinstance(caught.value, InputError)


@pytest.mark.parametrize("alone", ["input_ids", "pixel_values"])
def test_a_model_with_two_towers_says_what_is_missing(alone: str):
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**tower, "vocab_size": 61, "max_position_embeddings": 16, "eos_token_id": 1, "bos_token_id": 0},
        vision_config={**tower, "image_size": 8, "patch_size": 4},
        projection_dim=8,
    )
    model = interp.load(transformers.CLIPModel(config).eval())
    given = {"input_ids": IDS, "pixel_values": torch.zeros(1, 3, 8, 8)}
    with pytest.raises(InputError, match=r"CLIPModel cannot (begin|go on) with these inputs .*input_ids.*pixel_values"):
        model.capture({alone: given[alone]})
    assert set(model.capture(given).layers) == {"text.0", "vision.0"}


def test_autocast_is_refused(own_model):
    model = interp.load(own_model("llama"))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(InputError, match=r"torch\.autocast is on"):
        model.capture(IDS)
    model.capture(IDS)
