"""Encoder-decoders: self attention on both sides, and cross attention."""

from __future__ import annotations

from typing import Any

from tests.interp.zoo.entry import COMMON, GROUPED, HEADS, LAYERS, Entry, numbered
from tests.interp.zoo.inputs import pairs, spectrum

STACKS = (*numbered("encoder"), *numbered("decoder"), *numbered("cross"))
T5 = {
    **COMMON,
    "d_model": 32,
    "num_layers": LAYERS,
    "num_decoder_layers": LAYERS,
    "num_heads": HEADS,
    "d_kv": 8,
    "d_ff": 48,
    "decoder_start_token_id": 0,
}
BART = {
    **COMMON,
    "d_model": 32,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "decoder_start_token_id": 0,
    "forced_eos_token_id": None,
}
GEMMA = GROUPED | {"head_dim": 8, "query_pre_attn_scalar": 8, "layer_types": ["sliding_attention", "full_attention"]}


def both(model: str, config: str, arguments: dict[str, Any], *, inputs: Any = pairs, **more: Any) -> Entry:
    return Entry(model, f"{config}Config", arguments | more, "Encoder-decoders", STACKS, inputs)


ENCODER_DECODERS = (
    both("T5ForConditionalGeneration", "T5", T5),
    both("MT5ForConditionalGeneration", "MT5", T5),
    both("UMT5ForConditionalGeneration", "UMT5", T5),
    both(
        "SwitchTransformersForConditionalGeneration",
        "SwitchTransformers",
        T5,
        num_experts=1,
        num_sparse_encoder_layers=0,
        num_sparse_decoder_layers=0,
    ),
    both("BartForConditionalGeneration", "Bart", BART),
    both("MBartForConditionalGeneration", "MBart", BART),
    both("PegasusForConditionalGeneration", "Pegasus", BART),
    both("MarianMTModel", "Marian", BART),
    both("M2M100ForConditionalGeneration", "M2M100", BART),
    both("PLBartForConditionalGeneration", "PLBart", BART),
    both("BlenderbotForConditionalGeneration", "Blenderbot", BART),
    both("BlenderbotSmallForConditionalGeneration", "BlenderbotSmall", BART),
    both(
        "T5GemmaForConditionalGeneration",
        "T5Gemma",
        {"encoder": GEMMA, "decoder": GEMMA, "vocab_size": COMMON["vocab_size"]},
    ),
    both(
        "WhisperForConditionalGeneration",
        "Whisper",
        BART,
        inputs=spectrum(8, 40),
        num_mel_bins=8,
        max_source_positions=20,
        max_target_positions=64,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    ),
    both(
        "Speech2TextForConditionalGeneration",
        "Speech2Text",
        BART,
        inputs=spectrum(40, 8),
        input_feat_per_channel=8,
        conv_channels=16,
        max_source_positions=64,
    ),
)
