"""TransformerLens bridges are edited as the models inside them are, and their own hooks see it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import interp
from interp import edits
from tests.interp.tiny import ARCHITECTURES, token_ids
from tests.interp.words import words_tokenizer

IDS = token_ids((2, 20))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_an_edited_bridge_equals_the_edited_model(name: str, tmp_path: Path) -> None:
    bridges = pytest.importorskip("transformer_lens.model_bridge")
    plain = interp.load(ARCHITECTURES[name].build())
    inside = ARCHITECTURES[name].build()
    inside.save_pretrained(tmp_path)
    words_tokenizer().save_pretrained(tmp_path)
    bridge = bridges.TransformerBridge.boot_transformers(str(tmp_path), hf_model=inside, dtype=torch.float32)
    bridged = interp.load(bridge)
    given = [
        edits.ablate("L0H1"),
        edits.cut(queries=slice(5, None), keys=[1, 2], renormalize=False),
        edits.uniform("L1H0"),
        edits.recalibrate(keys=[0, 3], heads=["L1H1", "L1H2"]),
    ]
    with torch.no_grad():
        before = bridge(IDS)
        with plain.edited(given):
            expected = plain.capture(IDS, ["entropy"], logits=True)
        with bridged.edited(given):
            got = bridged.capture(IDS, ["entropy"], logits=True)
            by_itself, cache = bridge.run_with_cache(IDS, names_filter=lambda hook: hook.endswith("hook_z"))
        after = bridge(IDS)
    # Projections of joint weights are multiplied in another order; float32 and logits of some tens.
    close = {"rtol": 0, "atol": 2e-4}
    torch.testing.assert_close(got.logits, expected.logits, **close)
    torch.testing.assert_close(by_itself, expected.logits, **close)
    torch.testing.assert_close(got.stacked("entropy"), expected.stacked("entropy"), **close)
    assert not cache["blocks.0.attn.hook_z"][:, :, 1].any()
    assert torch.equal(before, after)
    assert (before - by_itself).abs().max() > 1e-1
