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


def test_an_error_that_torch_raises_in_the_users_hook_stays_what_it_is():
    model = ARCHITECTURES["llama"].build()
    model.get_input_embeddings().register_forward_hook(lambda *_: torch.nn.functional.dropout(torch.ones(2), p=2.0))
    for run in (interp.load(model).capture, interp.load(model)):
        with pytest.raises(ValueError, match=r"^dropout probability") as caught:
            run(IDS)
        assert not isinstance(caught.value, InputError)


@pytest.mark.parametrize(("alone", "other"), [("input_ids", "pixel_values"), ("pixel_values", "input_ids")])
@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_a_model_with_two_towers_says_what_is_missing_and_what_to_do(kind: str, alone: str, other: str):
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = getattr(transformers, f"{kind}Config")(
        text_config={**tower, "vocab_size": 61, "max_position_embeddings": 16, "eos_token_id": 1, "bos_token_id": 0},
        vision_config={**tower, "image_size": 8, "patch_size": 4},
    )
    model = interp.load(getattr(transformers, f"{kind}Model")(config).eval())
    given = {"input_ids": IDS, "pixel_values": torch.zeros(1, 3, 8, 8)}
    part = "text_model" if alone == "input_ids" else "vision_model"
    said = (
        rf"{kind}Model cannot (begin|go on) with these inputs \({alone} .*; its forward takes .*; give {other} too, or load the "
        rf"tower that reads what there is, interp\.load\(model\.model\.{part}\)$"
    )
    for run in (model.capture, model.maps, model):
        with pytest.raises(InputError, match=said):
            run({alone: given[alone]})
    assert interp.load(getattr(model.model, part)).capture({alone: given[alone]}).layers == (0,)
    assert set(model.capture(given).layers) == {"text.0", "vision.0"}


def test_autocast_is_refused(own_model):
    model = interp.load(own_model("llama"))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(InputError, match=r"torch\.autocast is on"):
        model.capture(IDS)
    model.capture(IDS)
