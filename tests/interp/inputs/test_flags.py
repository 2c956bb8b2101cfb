"""Arguments of a forward that are no tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

import interp
from interp.errors import InputError
from tests.interp.tiny import WIDTHS, randomised, token_ids

PIXELS = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def vit() -> interp.HookedModel:
    config = transformers.ViTConfig(**WIDTHS, image_size=16, patch_size=8)
    return interp.load(randomised(transformers.ViTModel(config).eval()))


@pytest.mark.parametrize("flag", [True, np.bool_(True), 1])
def test_images_of_another_size_run_where_the_flag_is_given(flag: Any, vit):
    given = {"pixel_values": PIXELS, "interpolate_pos_encoding": flag}
    capture = vit.capture(given, ["entropy"])
    assert capture["entropy"][0].shape == (1, 4, 1 + 9)
    with torch.no_grad():
        expected = vit.model(pixel_values=PIXELS, interpolate_pos_encoding=True).last_hidden_state
        assert torch.equal(vit(given).last_hidden_state, expected)
    assert vit.maps(given)[0].shape[-1] == 10


@pytest.mark.parametrize("flag", [False, None])
def test_without_the_flag_the_size_is_refused_with_what_to_do(flag: Any, vit):
    with pytest.raises(InputError, match=r"16 x 16 pixels, got 24 x 24; .* or give interpolate_pos_encoding=True"):
        vit.capture({"pixel_values": PIXELS, "interpolate_pos_encoding": flag})


def test_how_many_logits_to_keep_is_a_number(own_model):
    model, ids = interp.load(own_model("llama")), token_ids((1, 6))
    whole = model.capture(ids, [], logits=True).logits
    last = model.capture({"input_ids": ids, "logits_to_keep": 2}, [], logits=True).logits
    # A product of fewer rows may add its 32 terms up in another order: each rounds by half an ulp of what is there.
    width = model.model.config.hidden_size
    bound = width * torch.finfo(last.dtype).eps * float(whole.abs().max())
    assert last.shape == (1, 2, whole.shape[-1])
    torch.testing.assert_close(last, whole[:, -2:], rtol=0, atol=bound)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"input_ids": token_ids((1, 6)), "use_cache": True}, r"inputs\['use_cache'\]: a run of interp keeps no cache"),
        ({"input_ids": token_ids((1, 6)), "output_attentions": True}, r"inputs\['output_attentions'\]: .* model\.maps"),
        ({"input_ids": token_ids((1, 6)), "position_ids": 3}, r"inputs\['position_ids'\]: expected a tensor"),
        ({"input_ids": 3}, r"inputs\['input_ids'\]: expected a tensor"),
        ({"logits_to_keep": 1}, r"by name, got no tensor but logits_to_keep alone"),
    ],
    ids=range(5),
)
def test_what_is_no_flag_is_refused(given: Any, said: str, own_model):
    for run in (interp.load(own_model("llama")).capture, interp.load(own_model("llama"))):
        with pytest.raises(InputError, match=said):
            run(given)
