"""Kinds of attention component beside those of the tiny architectures, each against the model through transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

pytest.importorskip("transformer_lens", reason="transformer-lens is not installed (the extra `lens`)")

from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import PreTrainedModel

import interp
from tests.interp.bridges.bridges import furthest, own_run, quiet
from tests.interp.tiny import COMMON, GROUPED, randomised, right_padded, token_ids

GPT = {**COMMON, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
LATENT = {
    "num_key_value_heads": 4,
    "n_routed_experts": 2,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 1,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "first_k_dense_replace": 2,
}
T5 = {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
LAYER_TYPES = ["sliding_attention", "full_attention"]
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "latent attention": ("DeepseekV3Config", "DeepseekV3ForCausalLM", {**GROUPED, **LATENT}),
    "mask of padding alone": ("OpenAIGPTConfig", "OpenAIGPTLMHeadModel", GPT),
    "own attention of transformers": ("GPTJConfig", "GPTJForCausalLM", {**GPT, "rotary_dim": 4}),
    "one KV head": ("GPTBigCodeConfig", "GPTBigCodeForCausalLM", GPT),
    "norms over all heads": ("Olmo2Config", "Olmo2ForCausalLM", GROUPED),
    "relative bias, encoder and decoder": ("T5Config", "T5ForConditionalGeneration", {**COMMON, **T5}),
    "rotary positions in some layers": (
        "Cohere2Config",
        "Cohere2ForCausalLM",
        {**GROUPED, "sliding_window": 7, "layer_types": LAYER_TYPES},
    ),
}


def made(kind: str) -> PreTrainedModel:
    config_class, model_class, arguments = KINDS[kind]
    config = getattr(transformers, config_class)(**arguments)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, model_class)(config).eval()
    return randomised(model).double()


def bridged(kind: str) -> Any:
    model = made(kind)
    with quiet():
        return build_bridge_from_module(model, KINDS[kind][1], hf_config=model.config)


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_and_logits_are_those_of_the_model_through_transformers(kind: str):
    inputs, _, keep = right_padded((30, 19))
    ours, theirs = (interp.load(m).capture(inputs, logits=True) for m in (bridged(kind), made(kind)))
    assert list(ours["entropy"]) == list(theirs["entropy"])
    # Cohere's rotary positions are float32 in the bridge, float64 in transformers.
    bound = 5e-6 if "Cohere2" in KINDS[kind][0] else 1e-11
    for layer, want in theirs["entropy"].items():
        assert furthest(ours["entropy"][layer].nan_to_num(), want.nan_to_num()) <= bound
    assert ours.logits is not None
    assert theirs.logits is not None
    if ours.logits.shape[:2] == keep.shape:
        assert furthest(ours.logits[keep], theirs.logits[keep]) <= bound


@pytest.mark.parametrize("kind", ["latent attention", "mask of padding alone", "own attention of transformers"])
def test_their_layers_run_dense_too(kind: str):
    ids, model = token_ids((2, 20)), bridged(kind)
    want, _ = own_run(model, ids)
    with (
        model.hooks(fwd_hooks=[("blocks.1.attn.hook_pattern", lambda value, hook: None)]),
        pytest.warns(interp.DenseLayerWarning, match="layer 1 runs dense"),
    ):
        capture = interp.load(model).capture(ids, logits=True)
    fused = interp.load(model).capture(ids)
    assert capture.logits is not None
    assert furthest(capture.logits, want) < 1e-5
    assert furthest(capture["entropy"][1], fused["entropy"][1]) < 1e-5
