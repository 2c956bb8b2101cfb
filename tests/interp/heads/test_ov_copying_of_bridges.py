"""TransformerLens bridges: their value-output circuits are those of the model inside, told from what their components compute."""

from __future__ import annotations

import numpy as np
import pytest

import interp
from interp.errors import InputError
from interp.heads import maps_score, ov_copying
from tests.interp.heads.dense_circuits import full_circuits, score_of
from tests.interp.tiny import LAYERS

pytest.importorskip("transformer_lens", reason="transformer-lens is not installed (the extra `lens`)")

from tests.interp.bridges.bridges import bridge, native, plain, quiet


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_neox", "opt"])
def test_a_bridge_has_the_circuits_of_its_model(name: str):
    """Those that compute attention themselves, and OPT, whose bridge leaves it to the module of transformers."""
    of_bridge, of_model = interp.load(bridge(name)), interp.load(plain(name))
    found, expected = ov_copying(of_bridge), ov_copying(of_model)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.own_rank, expected.own_rank)
    pairs = [(5, 9), (11, 30), (7, 7)]
    np.testing.assert_array_equal(maps_score(of_bridge, pairs).ranks, maps_score(of_model, pairs).ranks)
    table = interp.scan(of_bridge, "ov_copying", progress=False)
    np.testing.assert_array_equal(table.grid("ov_copying"), found.scores)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
def test_in_compatibility_mode_the_unembedding_is_centred(name: str):
    """So eigenvalues are other ones, and ranks the same."""
    found = ov_copying(interp.load(bridge(name, compatibility=True)))
    for layer in range(LAYERS):
        for head, full in enumerate(full_circuits(plain(name), name, layer)):
            # Norms of a float64 Llama are computed in float32; the score by the condition of its eigenvalues.
            centred = score_of(full - full.mean(dim=1, keepdim=True))
            assert found.scores[layer, head] == pytest.approx(centred, abs=1e-6)
    np.testing.assert_array_equal(found.own_rank, ov_copying(interp.load(plain(name))).own_rank)


def test_natively_booted_bridges_are_refused_with_the_reason():
    with quiet():
        model = interp.load(native())
    reason = "told of models of transformers, which name their unembedding, and this holds a NativeModel; load the model from"
    with pytest.raises(InputError, match=reason):
        ov_copying(model)
    with pytest.raises(InputError, match=reason):
        maps_score(model, [(3, 4)])
    with pytest.raises(InputError, match=f"detector 'ov_copying' cannot be run: .*{reason}"):
        interp.scan(model, "ov_copying", progress=False)
