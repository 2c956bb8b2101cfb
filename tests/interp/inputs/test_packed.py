"""Arguments of the forward by name mean what they mean to the model itself: packed documents, masks, embeddings."""

from __future__ import annotations

import pytest
import torch

import interp
from interp.errors import InputError
from tests.interp import dense
from tests.interp.tiny import token_ids

FIRST, SECOND = 11, 9
PACKED = torch.cat([torch.arange(FIRST), torch.arange(SECOND)])[None]


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3"])
def test_positions_that_start_again_tell_documents_apart(name: str, own_model, eager_model):
    ids = token_ids((1, FIRST + SECOND), seed=4)
    model = interp.load(own_model(name))
    capture = model.capture({"input_ids": ids, "position_ids": PACKED}, ["entropy"], logits=True)
    assert capture.logits is not None
    for part in (slice(0, FIRST), slice(FIRST, None)):
        piece = ids[:, part]
        alone = model.capture(piece, [], logits=True).logits
        torch.testing.assert_close(capture.logits[:, part], alone, rtol=0, atol=2e-4)
        maps = dense.eager_maps(eager_model(name), piece, torch.ones_like(piece, dtype=torch.bool))
        for layer, p in enumerate(maps):
            got = capture["entropy"][layer][:, :, part].double()
            torch.testing.assert_close(got, dense.entropy(p), rtol=0, atol=2e-4)


def test_a_mask_that_is_given_beside_positions_reaches_the_model(own_model):
    """transformers then looks for no documents."""
    ids = token_ids((1, FIRST + SECOND), seed=4)
    given = {"input_ids": ids, "position_ids": PACKED, "attention_mask": torch.ones_like(ids)}
    logits = interp.load(own_model("llama")).capture(given, [], logits=True).logits
    with torch.no_grad():
        own = own_model("llama")(**given, use_cache=False).logits
    torch.testing.assert_close(logits, own, rtol=0, atol=2e-4)


@pytest.mark.parametrize("odd", [0.5, 2.0, -1e9])
def test_a_mask_of_other_values_is_refused(odd: float, own_model):
    ids = token_ids((1, 4))
    mask = torch.tensor([[1.0, 1.0, odd, 0.0]])
    with pytest.raises(InputError, match="attention_mask: expected 1 at tokens and 0 at padding, got values such as"):
        interp.load(own_model("llama")).capture({"input_ids": ids, "attention_mask": mask})


def test_padding_beside_embeddings_is_refused(own_model):
    model = interp.load(own_model("gpt2"))
    embedded = model.model.get_input_embeddings()(token_ids((2, 6))).detach()
    keep = torch.tensor([[1] * 6, [0] * 2 + [1] * 4])
    with pytest.raises(InputError, match="padding beside inputs_embeds is not told apart"):
        model.capture({"inputs_embeds": embedded, "attention_mask": keep})


def test_embeddings_longer_than_the_context_are_refused(own_model):
    with pytest.raises(InputError, match="the input has 300 tokens"):
        interp.load(own_model("gpt2")).capture({"inputs_embeds": torch.randn(1, 300, 32)})


def test_a_probe_that_does_not_fit_is_not_blamed_on_the_input(own_model):
    with pytest.raises(ValueError, match=r"^probes: names must differ"):
        interp.load(own_model("llama")).capture(token_ids((1, 4)), ["entropy", "entropy"])


@pytest.mark.parametrize("probes", [None, 3])
def test_probes_must_be_several(probes: object, own_model):
    with pytest.raises(InputError, match="probes: expected probes or their names"):
        interp.load(own_model("llama")).capture(token_ids((1, 4)), probes)
