"""Encoders of text: both ways, with absolute and rotary positions, local layers, one module for all layers."""

from __future__ import annotations

from typing import Any

from tests.interp.zoo.entry import COMMON, GROUPED, HEADS, LAYERS, WIDTHS, WINDOW, Entry

BERT = WIDTHS | COMMON


def encoder(model: str, config: str, arguments: dict[str, Any] = BERT, **more: Any) -> Entry:
    arguments = arguments | more
    layers = tuple(range(arguments.get("num_hidden_layers", LAYERS)))
    return Entry(model, f"{config}Config", arguments, "Encoders", layers)


ENCODERS = (
    encoder("BertForMaskedLM", "Bert"),
    encoder("RobertaForMaskedLM", "Roberta"),
    encoder("CamembertModel", "Camembert"),
    encoder("XLMRobertaModel", "XLMRoberta"),
    encoder("ElectraModel", "Electra", embedding_size=32),
    encoder("AlbertModel", "Albert", embedding_size=16, num_hidden_layers=3),
    encoder("ErnieModel", "Ernie"),
    encoder(
        "DistilBertForMaskedLM",
        "DistilBert",
        {**COMMON, "dim": 32, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": 48},
    ),
    encoder(
        "ModernBertForMaskedLM",
        "ModernBert",
        local_attention=2 * WINDOW,
        layer_types=["sliding_attention", "full_attention"],
    ),
    encoder("EuroBertModel", "EuroBert", GROUPED),
    encoder("NomicBertModel", "NomicBert", head_dim=8),
    encoder("EsmModel", "Esm", position_embedding_type="rotary", mask_token_id=3, token_dropout=False),
    encoder("RobertaPreLayerNormModel", "RobertaPreLayerNorm"),
    encoder("SplinterModel", "Splinter"),
    encoder("Data2VecTextModel", "Data2VecText"),
    encoder("XmodModel", "Xmod", languages=["en_XX"], default_language="en_XX"),
    encoder("LayoutLMModel", "LayoutLM"),
    encoder(
        "MobileBertModel",
        "MobileBert",
        embedding_size=16,
        intra_bottleneck_size=16,
        true_hidden_size=16,
        normalization_type="layer_norm",
    ),
)
