"""Bloom, Falcon and MPT: ALiBi, as a number for each head and key that is added to the scores; Falcon's is scaled with them.

It is taken as the model makes it, in its own dtype, so that the map is the model's to the last bit. By rows it differs from
-slope |i - j| by a constant, which the softmax does not see. Falcon's eager path (not its default, SDPA) adds ALiBi twice, in its
mask and again to the scores; here it is added once.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from interp.models.adapters.adapter import Adapter, Watch, merged


def _bloom(
    module: Any,
    watch: Watch,
    hidden_states: Tensor,
    residual: Tensor,
    alibi: Tensor,
    attention_mask: Any,
    layer_past: Any = None,
    **_: Any,
) -> tuple[Tensor, None]:
    q, k, v = module._reshape(module.query_key_value(hidden_states))
    if layer_past is not None:
        k, v = layer_past.update(k, v, module.layer_idx)
    bias = module.beta * alibi.view(q.shape[0], module.num_heads, 1, -1)
    output = module.dense(merged(watch(q, k, v, attention_mask, scaling=module.inv_norm_factor, bias=bias)))
    return residual + nn.functional.dropout(output, p=module.hidden_dropout, training=module.training), None


def _falcon(
    module: Any,
    watch: Watch,
    hidden_states: Tensor,
    alibi: Tensor | None,
    attention_mask: Any,
    position_ids: Tensor | None = None,
    layer_past: Any = None,
    use_cache: bool = False,
    output_attentions: bool = False,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    from transformers.models.falcon.modeling_falcon import apply_rotary_pos_emb

    # The new decoder architecture hands out each KV head once for every query head.
    q, k, v = (x.transpose(1, 2) for x in module._split_heads(module.query_key_value(hidden_states)))
    bias = None
    if alibi is not None:
        bias = alibi.view(q.shape[0], module.num_heads, 1, -1) * module.inv_norm_factor
    elif position_embeddings is not None:
        q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
    if layer_past is not None:
        k, v = layer_past.update(k, v, module.layer_idx)
    return module.dense(merged(watch(q, k, v, attention_mask, scaling=module.inv_norm_factor, bias=bias))), None


def _mpt(
    module: Any,
    watch: Watch,
    hidden_states: Tensor,
    position_bias: Tensor | None,
    past_key_values: Any = None,
    attention_mask: Any = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """position_bias: [H, 1, longest context]; its last columns are those of the keys."""
    qkv = module.Wqkv(hidden_states)
    if module.clip_qkv:
        qkv = qkv.clamp(min=-module.clip_qkv, max=module.clip_qkv)
    q, k, v = (x.unflatten(-1, (module.n_heads, -1)).transpose(1, 2) for x in qkv.chunk(3, dim=2))
    if past_key_values is not None:
        k, v = past_key_values.update(k, v, module.layer_idx)
    bias = None if position_bias is None else position_bias[None, :, :, -k.shape[2] :].to(q.dtype)
    return module.out_proj(merged(watch(q, k, v, attention_mask, scaling=module.softmax_scale, bias=bias))), None


BLOOM = Adapter("forward", _bloom)
FALCON = Adapter("forward", _falcon, reads_configuration=True)
MPT = Adapter("forward", _mpt)
