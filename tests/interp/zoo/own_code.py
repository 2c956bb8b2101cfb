"""Architectures with attention in code of their own, each with an adapter."""

from __future__ import annotations

from typing import Any

from tests.interp.tiny import CONTEXT
from tests.interp.zoo.entry import COMMON, HEADS, LAYERS, WIDTHS, WINDOW, Entry
from tests.interp.zoo.inputs import tokens, tokens_padded_right

GPT = {**COMMON, "n_embd": 32, "n_layer": LAYERS, "n_head": HEADS, "n_positions": CONTEXT, "rotary_dim": 4}


def adapted(
    model: str, config: str, arguments: dict[str, Any], *, inputs: Any = tokens, note: str = "", **more: Any
) -> Entry:
    return Entry(model, f"{config}Config", arguments | more, "With an adapter", inputs=inputs, note=note)


OWN_CODE = (
    adapted("GPTJForCausalLM", "GPTJ", GPT),
    adapted("CodeGenForCausalLM", "CodeGen", GPT),
    adapted(
        "GPTNeoForCausalLM",
        "GPTNeo",
        {**COMMON, "hidden_size": 32, "num_layers": LAYERS, "num_heads": HEADS, "window_size": WINDOW},
        attention_types=[[["global", "local"], 1]],
    ),
    adapted("GPTNeoXJapaneseForCausalLM", "GPTNeoXJapanese", WIDTHS | COMMON),
    adapted("OpenAIGPTLMHeadModel", "OpenAIGPT", GPT),
    adapted("BloomForCausalLM", "Bloom", {**COMMON, "hidden_size": 32, "n_layer": LAYERS, "n_head": HEADS}),
    adapted(
        "FalconForCausalLM",
        "Falcon",
        WIDTHS | COMMON,
        new_decoder_architecture=False,
        multi_query=True,
        note="one KV head",
    ),
    adapted(
        "FalconForCausalLM",
        "Falcon",
        WIDTHS | COMMON,
        new_decoder_architecture=True,
        num_kv_heads=2,
        note="new architecture",
    ),
    adapted(
        "MptForCausalLM",
        "Mpt",
        {**COMMON, "d_model": 32, "n_layers": LAYERS, "n_heads": HEADS, "max_seq_len": CONTEXT},
        inputs=tokens_padded_right,
    ),
    adapted(
        "XGLMForCausalLM",
        "XGLM",
        {**COMMON, "d_model": 32, "num_layers": LAYERS, "attention_heads": HEADS, "ffn_dim": 48},
    ),
    adapted("MegatronBertModel", "MegatronBert", WIDTHS | COMMON),
    adapted("RemBertModel", "RemBert", WIDTHS | COMMON, input_embedding_size=16, output_embedding_size=16),
    adapted("MPNetModel", "MPNet", WIDTHS | COMMON),
)
