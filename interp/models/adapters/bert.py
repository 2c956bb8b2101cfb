"""Megatron-BERT, RemBERT and MPNet: encoders (the first two also decoders, with cross attention) written before the registry."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from interp.models.adapters.adapter import Adapter, Watch, merged


def _heads(x: Tensor, width: int) -> Tensor:
    return x.unflatten(-1, (-1, width)).transpose(1, 2)


def _bert_like(
    module: Any,
    watch: Watch,
    hidden_states: Tensor,
    attention_mask: Any = None,
    encoder_hidden_states: Tensor | None = None,
    past_key_values: Any = None,
    output_attentions: bool = False,
    **_: Any,
) -> tuple[Tensor, None]:
    width = module.attention_head_size
    looks_across = encoder_hidden_states is not None
    source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
    cache = past_key_values
    if hasattr(cache, "cross_attention_cache"):
        cache = cache.cross_attention_cache if looks_across else cache.self_attention_cache
    if looks_across and past_key_values is not None and past_key_values.is_updated.get(module.layer_idx):
        k, v = cache.layers[module.layer_idx].keys, cache.layers[module.layer_idx].values
    else:
        k, v = _heads(module.key(source), width), _heads(module.value(source), width)
        if cache is not None:
            k, v = cache.update(k, v, module.layer_idx)
            if looks_across and past_key_values is not None:
                past_key_values.is_updated[module.layer_idx] = True
    q = _heads(module.query(hidden_states), width)
    return merged(watch(q, k, v, attention_mask, scaling=width**-0.5)), None


def _mpnet(
    module: Any,
    watch: Watch,
    hidden_states: Tensor,
    attention_mask: Any = None,
    position_bias: Tensor | None = None,
    output_attentions: bool = False,
    **_: Any,
) -> tuple[Tensor]:
    """position_bias: [1, H, T, T], which the model makes once for all layers."""
    width = module.attention_head_size
    q, k, v = (_heads(project(hidden_states), width) for project in (module.q, module.k, module.v))
    return (module.o(merged(watch(q, k, v, attention_mask, scaling=width**-0.5, bias=position_bias))),)


BERT_LIKE = Adapter("forward", _bert_like)
MPNET = Adapter("forward", _mpnet)
