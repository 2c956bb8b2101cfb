"""GPT-J, CodeGen, GPT-Neo, GPT-NeoX Japanese and the first GPT: their modules have a method for attention alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from interp.models.adapters.adapter import Adapter, Watch
from interp_kernels import Mask


def _gpt_j(module: Any, watch: Watch, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None) -> Any:
    # CodeGen rotates queries and keys into float32.
    q, k = query.to(value.dtype), key.to(value.dtype)
    return watch(q, k, value, attention_mask, scaling=1 / float(module.scale_attn)), None


def _gpt_neo(module: Any, watch: Watch, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None) -> Any:
    """Scores are not scaled. Every second layer of the released models sees ``config.window_size`` keys."""
    window = module.config.window_size if module.attention_type == "local" else None
    return watch(query, key, value, attention_mask, scaling=1.0, also=Mask.causal(window=window)), None


def _gpt_neox_japanese(
    module: Any, watch: Watch, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None
) -> Any:
    return watch(query, key, value, attention_mask, scaling=1 / float(module.norm_factor)), None


def _openai_gpt(
    module: Any,
    watch: Watch,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attention_mask: Any = None,
    output_attentions: bool = False,
) -> Any:
    """k comes transposed, [B, H, D, T]. Keys ahead are hidden by -10000, which leaves no mass in any dtype."""
    scaling = v.shape[-1] ** -0.5 if module.scale else 1.0
    return [watch(q, k.transpose(-1, -2), v, attention_mask, scaling=scaling, also=Mask.causal())]


GPT_J = CODEGEN = Adapter("_attn", _gpt_j)
GPT_NEO = Adapter("_attn", _gpt_neo)
GPT_NEOX_JAPANESE = Adapter("_attn", _gpt_neox_japanese)
OPENAI_GPT = Adapter("_attn", _openai_gpt)
