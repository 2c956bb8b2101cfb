"""One run gives what separate runs give: lazy maps of every layer, and the loss on every token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import interp
from interp.captures import reading
from interp.captures.reading import read
from interp.causal import token_losses
from interp.errors import InputError
from interp.models.hooked import HookedModel
from tests.interp.words import text_of


@pytest.fixture(scope="module")
def model(model_folder: Path) -> HookedModel:
    return interp.load(model_folder)


@pytest.fixture(scope="module")
def encoder(encoder_folder: Path) -> HookedModel:
    return interp.load(encoder_folder)


TEXT = text_of([10, 11, 12, 13, 10, 11])


def test_maps_losses_and_tokens_are_those_of_separate_runs(model: HookedModel):
    found = read(model, TEXT)
    losses = token_losses(model, TEXT)[0].numpy()
    assert found.losses is not None
    assert np.isnan(found.losses[0])
    np.testing.assert_array_equal(found.losses[1:], losses)
    assert found.no_losses == ""
    maps = model.maps(TEXT)
    assert tuple(found.maps) == model.layers
    assert all(found.maps[layer].dense().equal(maps[layer].dense()) for layer in maps)
    assert found.text == TEXT
    assert len(found.strings) == found.maps[0].shape[-1] == len(found.losses)


def test_the_memory_it_states_is_that_of_queries_keys_values_and_log_sum_exps(model: HookedModel):
    found = read(model, TEXT)
    shape, tokens = model.shape, len(found.tokens)
    width = found.maps[0].operands.q.shape[-1]
    least = 4 * shape.layers * tokens * (shape.heads * (width + 1) + 2 * shape.kv_heads * width)
    assert least <= found.bytes <= 1.5 * least
    assert f"{tokens} tokens" in repr(found)


def test_an_encoder_has_maps_and_says_why_it_has_no_losses(encoder: HookedModel):
    found = read(encoder, TEXT)
    assert found.losses is None
    assert "sees the token that is to be predicted" in found.no_losses
    assert tuple(found.maps) == encoder.layers


def test_one_token_has_no_losses(model: HookedModel):
    found = read(model, [[5]])
    assert found.losses is None
    assert "one token" in found.no_losses
    assert found.text is None


def test_logits_that_would_be_too_large_are_not_made(model: HookedModel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reading, "LARGEST_LOGITS", 100)
    found = read(model, TEXT)
    assert found.losses is None
    assert "more than the 0.0 GB that a reading allows" in found.no_losses


def test_several_texts_are_refused(model: HookedModel):
    with pytest.raises(InputError, match="a reading is of one text, got 2 sequences"):
        read(model, [TEXT, TEXT])
