"""What a model's configuration says of its attention: layers, heads, context, positions."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from interp.models.layers import LayersOf

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LANGUAGE = ("", "text", "decoder")
"""Stacks of layers that read or write text."""


@dataclass(frozen=True)
class ModelShape:
    """Numbers that the rest of the package asks for; of the language model, where there are several towers.

    layers: all of them, also those of a hybrid that do not attend
    vocabulary: how many token ids it knows, 0 where it reads none (vision, audio)
    context: positions that the model was made for, None where it has no such bound
    has_relative_positions: rotary positions and the like, which can be run beyond the context
    is_causal: its attention looks back only
    takes_position_ids: its forward has an argument of that name; a model with learned positions that is not told them counts
        padding on the left as positions
    """

    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int | None
    has_relative_positions: bool
    is_causal: bool
    takes_position_ids: bool


def model_shape(model: PreTrainedModel, layers: LayersOf) -> ModelShape:
    """The shape of a loaded model, from its configuration and its attention modules."""
    config = model.config.get_text_config(decoder=True)
    served = [layer for each in layers.values() for layer in each if layer.stack in LANGUAGE]
    modules = [module for module, (layer, *_) in layers.items() if layer.stack in LANGUAGE]
    heads = _number(config, "num_attention_heads") or next((layer.heads for layer in served if layer.heads), 0)
    vocabulary = _vocabulary(model, config)
    return ModelShape(
        layers=_number(config, "num_hidden_layers") or len(served) or sum(map(len, layers.values())),
        heads=heads,
        kv_heads=_number(config, "num_key_value_heads") or _number(config, "num_kv_heads") or heads,
        vocabulary=vocabulary,
        context=_context(config) if vocabulary else None,
        has_relative_positions=_has_relative_positions(config),
        is_causal=bool(
            getattr(config, "is_causal", True) and modules and all(getattr(m, "is_causal", True) for m in modules)
        ),
        takes_position_ids="position_ids" in inspect.signature(model.forward).parameters,
    )


def _number(config: Any, name: str) -> int | None:
    """Some vision models give a list, a number for each stage."""
    value = getattr(config, name, None)
    return value if isinstance(value, int) else None


def _vocabulary(model: PreTrainedModel, config: Any) -> int:
    try:
        embeddings = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        embeddings = None
    if isinstance(embeddings, nn.Embedding):
        return embeddings.num_embeddings
    # Of two towers side by side (CLIP) neither is the model's own.
    reads_text = "input_ids" in inspect.signature(model.forward).parameters
    return (_number(config, "vocab_size") or 0) if reads_text else 0


def _context(config: Any) -> int | None:
    """T5 and its kin are trained on some length, but have no bound: their positions are relative."""
    names = ("max_position_embeddings", "max_target_positions", "max_seq_len")
    return next((n for name in names if (n := _number(config, name)) is not None), None)


def _has_relative_positions(config: Any) -> bool:
    return bool(getattr(config, "rope_parameters", None) or getattr(config, "alibi", False))
