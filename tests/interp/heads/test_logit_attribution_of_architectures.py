"""Logit attribution in every architecture of the zoo that gives logits of tokens: complete to the logit, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import interp
from interp.errors import InputError
from interp.heads import logit_attribution
from tests.interp.zoo.entry import Entry
from tests.interp.zoo.zoo import ZOO

OWN_HEAD = "between its last layer and its unembedding stands something that is not linear"
REFUSED = {
    "BertForMaskedLM": OWN_HEAD,
    "RobertaForMaskedLM": OWN_HEAD,
    "DistilBertForMaskedLM": OWN_HEAD,
    "ModernBertForMaskedLM": OWN_HEAD,
    "ModernBertDecoderForCausalLM": OWN_HEAD,
    "JetMoeForCausalLM": "do not go through a linear projection",  # experts project the heads
    "Zamba2ForCausalLM": "do not go through a linear projection",  # its shared block hands on to a mixer
    "Idefics3ForConditionalGeneration": "do not stand in one list of blocks",
}


def writes_logits(entry: Entry) -> bool:
    return entry.model.endswith(("LM", "LMHeadModel", "LMHead", "Generation", "MTModel"))


@pytest.mark.parametrize("entry", [e for e in ZOO if writes_logits(e)], ids=lambda e: f"{e.model}{e.note}")
def test_parts_add_up_to_the_models_own_logit(entry: Entry):
    model = interp.load(entry.build())
    batch = model.batch(entry.inputs())
    if entry.model in REFUSED:
        with pytest.raises(InputError, match=REFUSED[entry.model]):
            logit_attribution(model, batch, 5)
        return
    found = logit_attribution(model, batch, 5, [-1, -3])
    assert bool((np.abs(found.remainder) <= found.rounding).all())
    assert bool(np.isfinite(found.heads).all())
    assert (found.heads != 0).any(axis=0).all(), "every head writes something"
    written = np.abs(found.heads).sum(axis=(1, 2)) + np.abs(found.others).sum(axis=1)
    assert float((found.rounding / written).max()) < 1e-3, "the bound is far below what is told apart"
    if not found.is_capped:
        logits = model.capture(batch, (), logits=True).logits
        assert logits is not None
        own = logits[torch.from_numpy(found.sequence), torch.from_numpy(found.position), 5]
        np.testing.assert_allclose(found.logits, own.double().numpy(), rtol=1e-4, atol=1e-4)
