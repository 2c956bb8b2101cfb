"""TransformerLens: its own direct logit attribution as a second opinion, and its bridges as models."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import interp
from interp.errors import InputError
from interp.heads import logit_attribution
from tests.interp.tiny import HEADS, LAYERS, token_ids

pytest.importorskip("transformer_lens", reason="transformer-lens is not installed (the extra `lens`)")

from tests.interp.bridges.bridges import bridge, native, plain, quiet

IDS = token_ids((2, 12), seed=3)


def test_differences_of_logits_are_those_of_transformer_lens():
    """Differences, as its compatibility mode centres the unembedding over the vocabulary."""
    lens = bridge("llama", compatibility=True)
    with quiet(), torch.no_grad():
        _, cache = lens.run_with_cache(IDS)
        theirs = cache.logit_attrs(cache.stack_head_results(layer=-1), tokens=11, incorrect_tokens=30)
    ours = logit_attribution(interp.load(plain("llama")), IDS, 11, None, against=30)
    by_head = ours.heads.reshape(*IDS.shape, LAYERS * HEADS).transpose(2, 0, 1)
    # The norms of a float64 Llama are computed in float32.
    np.testing.assert_allclose(by_head, theirs.numpy(), rtol=0, atol=16 * torch.finfo(torch.float32).eps * 2)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_bridge_has_the_attributions_of_its_model(name: str):
    expected = logit_attribution(interp.load(plain(name)), IDS, 11, None)
    found = logit_attribution(interp.load(bridge(name)), IDS, 11, None)
    np.testing.assert_allclose(found.heads, expected.heads, rtol=0, atol=1e-12)


def test_natively_booted_bridges_are_refused_with_the_reason():
    with quiet():
        model = interp.load(native())
    with pytest.raises(
        InputError, match="told of models of transformers, which name their unembedding, and this holds a Native"
    ):
        logit_attribution(model, IDS)
