"""Decoders whose layers all attend: rotary, learned and other positions, windows, soft caps, sink logits, chunks."""

from __future__ import annotations

from typing import Any

from tests.interp import tiny
from tests.interp.tiny import CONTEXT, YARN
from tests.interp.zoo.entry import COMMON, GROUPED, HEADS, LAYERS, WIDTHS, WINDOW, Entry

ALTERNATING: dict[str, Any] = tiny.ALTERNATING
GEMMA: dict[str, Any] = {"head_dim": 8, "query_pre_attn_scalar": 8}
GPT2: dict[str, Any] = {**COMMON, "n_embd": 32, "n_layer": LAYERS, "n_head": HEADS}


def decoder(name: str, arguments: dict[str, Any] = GROUPED, *, model: str = "", **more: Any) -> Entry:
    return Entry(model or f"{name}ForCausalLM", f"{name}Config", arguments | more, "Decoders")


DECODERS = (
    decoder("Llama"),
    decoder("Mistral", sliding_window=WINDOW),
    decoder("Qwen2"),
    decoder("Qwen3", head_dim=16),
    decoder("Gemma", head_dim=8),
    decoder("Gemma2", **ALTERNATING, **GEMMA, attn_logit_softcapping=4.0),
    Entry("Gemma3ForCausalLM", "Gemma3TextConfig", GROUPED | ALTERNATING | GEMMA, "Decoders"),
    decoder("Phi", WIDTHS | COMMON),
    decoder("Phi3", original_max_position_embeddings=CONTEXT, sliding_window=WINDOW),
    decoder("OPT", WIDTHS | COMMON, ffn_dim=48),
    decoder("GPT2", GPT2, model="GPT2LMHeadModel"),
    decoder("GPTBigCode", GPT2, multi_query=True),
    decoder("GPTNeoX", WIDTHS | COMMON),
    decoder(
        "CTRL", COMMON, n_embd=32, n_layer=LAYERS, n_head=HEADS, dff=48, n_positions=CONTEXT, model="CTRLLMHeadModel"
    ),
    decoder("BioGpt", WIDTHS | COMMON),
    decoder("Cohere", head_dim=8),
    decoder("Cohere2", **ALTERNATING, head_dim=8),
    decoder("Olmo"),
    decoder("Olmo2"),
    decoder("Olmo3", **ALTERNATING),
    decoder("Granite", attention_multiplier=0.5),
    decoder("Starcoder2", sliding_window=WINDOW),
    decoder("StableLm", partial_rotary_factor=0.5),
    decoder("Glm", head_dim=8),
    decoder("Glm4", head_dim=8),
    decoder("Nemotron"),
    decoder("Exaone4", **ALTERNATING),
    decoder("SmolLM3", no_rope_layers=[1, 0]),
    decoder("Persimmon", WIDTHS | COMMON),
    decoder("Ministral", **ALTERNATING, head_dim=8),
    decoder("Apertus"),
    decoder("Arcee"),
    decoder("Helium", head_dim=8),
    decoder("SeedOss", head_dim=8),
    decoder("VaultGemma", **ALTERNATING, **GEMMA, attn_logit_softcapping=4.0),
    decoder("HunYuanDenseV1", head_dim=8),
    decoder("Ernie4_5", head_dim=8),
    decoder("NanoChat"),
    decoder("BitNet"),
    decoder(
        "MiniCPM3",
        GROUPED | {"num_key_value_heads": HEADS},
        q_lora_rank=16,
        kv_lora_rank=8,
        qk_nope_head_dim=8,
        qk_rope_head_dim=8,
        v_head_dim=12,
    ),
    decoder("ModernBertDecoder", WIDTHS | COMMON, local_attention=2 * WINDOW, layer_types=ALTERNATING["layer_types"]),
)

EXPERTS: dict[str, Any] = {"num_local_experts": 2, "num_experts_per_tok": 2}
QWEN_EXPERTS: dict[str, Any] = {
    "num_experts": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "decoder_sparse_step": 1,
}
ROUTED: dict[str, Any] = {
    "n_routed_experts": 2,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}
LATENT: dict[str, Any] = {
    **ROUTED,
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
}


CHUNKED: dict[str, Any] = {
    "head_dim": 8,
    "intermediate_size_mlp": 48,
    "attention_chunk_size": WINDOW,
    "layer_types": ["chunked_attention", "full_attention"],
    "no_rope_layers": [1, 0],
}


def mixture(name: str, arguments: dict[str, Any] = GROUPED, *, model: str = "", **more: Any) -> Entry:
    return Entry(model or f"{name}ForCausalLM", f"{name}Config", arguments | more, "Mixtures of experts")


MIXTURES = (
    mixture("GptOss", **ALTERNATING, **EXPERTS, head_dim=8, rope_parameters=YARN),
    mixture("Mixtral", **EXPERTS),
    mixture("Qwen2Moe", **QWEN_EXPERTS, shared_expert_intermediate_size=16),
    mixture("Qwen3Moe", **QWEN_EXPERTS, head_dim=8),
    mixture("Olmoe", num_experts=2, num_experts_per_tok=2),
    mixture("GraniteMoe", **EXPERTS),
    mixture("Phimoe", **EXPERTS),
    mixture("DeepseekV2", WIDTHS | COMMON | LATENT, topk_method="greedy"),
    mixture("DeepseekV3", GROUPED | LATENT | {"num_key_value_heads": HEADS}),
    mixture("Glm4Moe", **ROUTED, head_dim=8),
    mixture("Dots1", **ROUTED, head_dim=8),
    mixture(
        "Dbrx",
        {**COMMON, "d_model": 32, "n_heads": HEADS, "n_layers": LAYERS, "max_seq_len": CONTEXT},
        attn_config={"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
        ffn_config={"ffn_hidden_size": 16, "moe_num_experts": 2, "moe_top_k": 2, "hidden_size": 32},
    ),
    mixture("Ernie4_5_Moe", moe_num_experts=2, moe_k=2, moe_intermediate_size=16, moe_layer_start_index=1),
    mixture("FlexOlmo", num_experts=2, num_experts_per_tok=2),
    mixture(
        "JetMoe",
        {**COMMON, "hidden_size": 32, "num_hidden_layers": LAYERS, "num_key_value_heads": 2, "kv_channels": 8},
        num_local_experts=2,
        num_experts_per_tok=2,
        intermediate_size=48,
    ),
    mixture("MiniMaxM2", **EXPERTS, head_dim=8, rotary_dim=8),
    Entry("Llama4ForCausalLM", "Llama4TextConfig", GROUPED | EXPERTS | CHUNKED, "Mixtures of experts"),
)
