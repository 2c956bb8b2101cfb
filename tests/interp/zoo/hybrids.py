"""Decoders of which only some layers attend, beside state spaces, recurrences, convolutions and linear attention."""

from __future__ import annotations

from typing import Any

from tests.interp.zoo.entry import GROUPED, HEADS, Entry
from tests.interp.zoo.inputs import tokens, tokens_padded_right

EXPERTS: dict[str, Any] = {"num_experts": 2, "num_experts_per_tok": 2}
MAMBA: dict[str, Any] = {
    "mamba_d_state": 8,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
}
DELTA: dict[str, Any] = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
    "layer_types": ["linear_attention", "full_attention"],
    "head_dim": 8,
}


def hybrid(name: str, layers: tuple[int, ...], *, padding: Any = tokens, config: str = "", **more: Any) -> Entry:
    return Entry(f"{name}ForCausalLM", config or f"{name}Config", GROUPED | more, "Hybrids", layers, padding)


HYBRIDS = (
    hybrid("Qwen3Next", (1,), **EXPERTS, **DELTA, moe_intermediate_size=16, shared_expert_intermediate_size=16),
    hybrid("Qwen3_5", (1,), **DELTA, config="Qwen3_5TextConfig"),
    hybrid("FalconH1", (0, 1), **MAMBA, mamba_d_ssm=64, head_dim=8),
    hybrid(
        "Jamba",
        (1,),
        **EXPERTS,
        attn_layer_period=2,
        attn_layer_offset=1,
        mamba_d_state=8,
        mamba_dt_rank=4,
        padding=tokens_padded_right,
    ),
    hybrid("Bamba", (1,), **MAMBA, attn_layer_indices=[1]),
    hybrid(
        "GraniteMoeHybrid",
        (1,),
        **MAMBA,
        num_local_experts=2,
        num_experts_per_tok=2,
        shared_intermediate_size=16,
        layer_types=["mamba", "attention"],
    ),
    hybrid(
        "Zamba2",
        (1, 2),
        num_hidden_layers=3,
        layers_block_type=["mamba", "hybrid", "hybrid"],
        mamba_d_state=8,
        mamba_ngroups=1,
        n_mamba_heads=8,
        mamba_headdim=8,
        num_mem_blocks=1,
        use_mem_rope=True,
        adapter_rank=4,
        num_key_value_heads=HEADS,
    ),
    hybrid("Lfm2", (1,), layer_types=["conv", "full_attention"], block_multiple_of=16),
    hybrid(
        "RecurrentGemma",
        (2,),
        num_hidden_layers=3,
        lru_width=32,
        attention_window_size=7,
        head_dim=8,
        padding=tokens_padded_right,
    ),
    hybrid(
        "MiniMax",
        (1,),
        num_local_experts=2,
        num_experts_per_tok=2,
        layer_types=["linear_attention", "full_attention"],
        head_dim=8,
    ),
    hybrid(
        "NemotronH",
        (1,),
        layers_block_type=["mamba", "attention"],
        head_dim=8,
        ssm_state_size=8,
        mamba_num_heads=8,
        mamba_head_dim=8,
        n_groups=1,
    ),
)
