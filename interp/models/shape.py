"""What a model's configuration says of its attention: layers, heads, context, positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from interp.models.layers import LayersOf

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ModelShape:
    """Numbers that the rest of the package asks for; of the language model, where there are several towers.

    layers: all of them, also those of a hybrid that do not attend
    vocabulary: how many token ids it knows, 0 where it reads none (vision, audio)
    context: positions that the model was made for, None where it has no such bound
    has_relative_positions: rotary positions, which can be run beyond the context
    is_causal: its attention looks back only
    """

    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int | None
    has_relative_positions: bool
    is_causal: bool


def model_shape(model: PreTrainedModel, layers: LayersOf) -> ModelShape:
    """The shape of a loaded model, from its configuration and its attention modules."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    attention = [module for module, (layer, *_) in layers.items() if layer.stack in ("", "text", "decoder")]
    embeddings = model.get_input_embeddings()
    return ModelShape(
        layers=config.num_hidden_layers,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        vocabulary=embeddings.num_embeddings if isinstance(embeddings, nn.Embedding) else 0,
        context=getattr(config, "max_position_embeddings", None),
        has_relative_positions=bool(getattr(config, "rope_parameters", None)),
        is_causal=bool(
            getattr(config, "is_causal", True) and attention and all(getattr(m, "is_causal", True) for m in attention)
        ),
    )
