"""XGLM, a decoder in the manner of BART."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from interp.errors import InputError
from interp.models.adapters.adapter import Adapter, Watch, merged


def _xglm(
    module: Any,
    watch: Watch,
    hidden_states: Tensor,
    key_value_states: Tensor | None = None,
    past_key_values: Any = None,
    attention_mask: Any = None,
    **_: Any,
) -> tuple[Tensor, None]:
    if key_value_states is not None:
        raise InputError("XGLM with cross attention cannot be watched; give it no encoder_hidden_states")
    q, k, v = (
        project(hidden_states).unflatten(-1, (-1, module.head_dim)).transpose(1, 2)
        for project in (module.q_proj, module.k_proj, module.v_proj)
    )
    if past_key_values is not None:
        cache = getattr(past_key_values, "self_attention_cache", past_key_values)
        k, v = cache.update(k, v, module.layer_idx)
    return module.out_proj(merged(watch(q, k, v, attention_mask, scaling=module.scaling))), None


XGLM = Adapter("forward", _xglm)
