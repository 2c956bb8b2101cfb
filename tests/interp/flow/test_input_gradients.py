"""Input gradients against autograd on eager models in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import PreTrainedModel

import interp
from interp.errors import InputError
from interp.flow import InputGradients, input_gradients
from tests.interp.tiny import right_padded, token_ids
from tests.interp.zoo.encoder_decoders import ENCODER_DECODERS

Build = Callable[[str], PreTrainedModel]
T = 20


def by_hand(model: PreTrainedModel, measure: str, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    model = copy.deepcopy(model).to(dtype=dtype)
    x = model.get_input_embeddings()(token_ids((1, T))).detach().requires_grad_()
    logits = model(inputs_embeds=x, use_cache=False).logits[0, 12]
    value = logits[7] if measure == "logit" else logits.softmax(-1)[7]
    (gradient,) = torch.autograd.grad(value, x)
    return gradient[0].norm(dim=-1).numpy(), (gradient * x).sum(-1)[0].detach().numpy()


@pytest.mark.parametrize("measure", ["logit", "probability"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_they_are_those_of_autograd(name: str, measure: str, own_model: Build, eager_model: Build):
    found = input_gradients(interp.load(own_model(name)), token_ids((1, T)), 7, at=12, measure=measure)  # pyright: ignore[reportArgumentType]
    exact = by_hand(eager_model(name), measure, torch.float64)
    own = by_hand(eager_model(name), measure, torch.float32)
    for got, plain, want in zip((found.norm[0], found.product[0]), own, exact, strict=True):
        bound = 2 * np.abs(plain - want).max() + 16 * np.finfo(np.float32).eps * np.abs(want).max()
        assert np.abs(got - want).max() <= bound
        assert np.abs(want).max() > 1e-6
    assert (found.norm[0, 13:] == 0).all()
    assert (found.product < 0).any()


def test_padding_has_none(own_model: Build):
    model = interp.load(own_model("llama"))
    lists, _, _ = right_padded((9, 5))
    together = input_gradients(model, model.batch(lists, padding="left"))
    assert np.isnan(together.norm[1, 5:]).all()
    for number, ids in enumerate(lists):
        alone = input_gradients(model, ids)
        np.testing.assert_allclose(together.norm[number, : len(ids)], alone.norm[0], rtol=1e-3, atol=1e-6)


def test_an_encoder_decoder_has_them_on_both_sides(tmp_path: Path):
    entry = next(entry for entry in ENCODER_DECODERS if entry.model == "T5ForConditionalGeneration")
    model = interp.load(entry.build())
    found = input_gradients(model, model.batch(token_ids((2, 9)), decoder=token_ids((2, 4))))
    assert found.norm.shape == (2, 9)
    assert found.decoder_norm is not None
    assert found.decoder_norm.shape == (2, 4)
    assert (found.decoder_norm > 0).any()
    frame = found.to_frame()
    assert frame.groupby("side").size().to_dict() == {"decoder": 8, "read": 18}
    back = InputGradients.load(found.save(tmp_path / "g"))
    np.testing.assert_array_equal(back.product, found.product)
    assert len(back.plot(1, "product").data) == 2


def test_what_embeds_no_tokens_is_refused():
    config = transformers.ViTConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4)
    model = interp.load(transformers.ViTForImageClassification(config).eval())
    with pytest.raises(
        InputError, match=r"inputs: .* is given no token ids here, and input gradients are those of tokens"
    ):
        input_gradients(model, {"pixel_values": torch.zeros(1, 3, 224, 224)})


def test_only_what_is_shown_can_be_asked_for(own_model: Build):
    found = input_gradients(interp.load(own_model("llama")), [5, 6])
    with pytest.raises(InputError, match="value: expected 'norm' or 'product', got 'sum'"):
        found.plot(value="sum")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="measure: expected 'logit' or 'probability', got 'loss'"):
        input_gradients(interp.load(own_model("llama")), [5, 6], measure="loss")  # pyright: ignore[reportArgumentType]


def test_a_sequence_that_does_not_exist_is_not_drawn(own_model: Build):
    found = input_gradients(interp.load(own_model("llama")), token_ids((2, 5)), 7)
    for wrong in (2, -1, "a"):
        with pytest.raises(InputError, match=f"sequence: there are 2, counted from 0; got {wrong!r}"):
            found.plot(wrong)  # pyright: ignore[reportArgumentType]
