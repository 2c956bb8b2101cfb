"""Direct logit attribution by hand: every module by its name, dense, in float64. Shares no code with interp.

What a head writes is what the output projection makes of its numbers alone. A norm after it is held at the scale of its actual
input. The part of a logit is the logit of the final residual less that of the residual without what the head wrote, both through
the final norm at the scale of the actual residual: no linear algebra is assumed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.interp.tiny import HEADS

LLAMA = ("model.layers.{}.self_attn.o_proj", "model.norm", None)
NAMED = {
    "llama": LLAMA,
    "qwen3": LLAMA,
    "gpt_oss": LLAMA,
    "gemma2": (*LLAMA[:2], "model.layers.{}.post_attention_layernorm"),
    "gemma3": (*LLAMA[:2], "model.layers.{}.post_attention_layernorm"),
    "gpt2": ("transformer.h.{}.attn.c_proj", "transformer.ln_f", None),
    "gpt_neox": ("gpt_neox.layers.{}.attention.dense", "gpt_neox.final_layer_norm", None),
    "opt": ("model.decoder.layers.{}.self_attn.out_proj", "model.decoder.final_layer_norm", None),
    "phi": ("model.layers.{}.self_attn.dense", "model.final_layernorm", None),
}
"""Output projection, final norm, and the norm after the attention, if there is one."""


def frozen(norm: nn.Module, at: Tensor, is_gemma: bool) -> Callable[[Tensor], Tensor]:
    """The norm as a function of x, with the scale of its input ``at``."""
    weight = norm.weight.double() + (1.0 if is_gemma else 0.0)
    if isinstance(norm, nn.LayerNorm):
        scale = (at.var(dim=-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
        return lambda x: (x - x.mean(dim=-1, keepdim=True)) / scale * weight + norm.bias.double()
    epsilon: Any = getattr(norm, "variance_epsilon", None) or getattr(norm, "eps", None)
    scale = (at.square().mean(dim=-1, keepdim=True) + epsilon).sqrt()
    return lambda x: x / scale * weight


def parts_of_heads(model: PreTrainedModel, name: str, ids: Tensor, token: int) -> tuple[Tensor, Tensor]:
    """Each head's part of the logit of ``token`` at every position [L, H, B, T], and that logit before any soft cap [B, T].

    ``model`` is in float64, with eager attention.
    """
    projection, final, after = NAMED[name]
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    layers = range(model.config.num_hidden_layers)
    watched = [projection.format(layer) for layer in layers] + [final]
    watched += [after.format(layer) for layer in layers] if after else []

    def hook(path: str) -> Callable[..., None]:
        def keep(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            seen[path] = given[0], output

        return keep

    handles = [model.get_submodule(path).register_forward_hook(hook(path)) for path in watched]
    with torch.no_grad():
        model(ids, use_cache=False)
        for handle in handles:
            handle.remove()
        x = seen[final][0]
        is_gemma = name.startswith("gemma")
        norm = frozen(model.get_submodule(final), x, is_gemma)
        head = model.get_output_embeddings()
        bias = 0.0 if getattr(head, "bias", None) is None else head.bias[token]

        def logit(stream: Tensor) -> Tensor:
            return norm(stream) @ head.weight[token] + bias

        parts = []
        for layer in layers:
            module = model.get_submodule(projection.format(layer))
            z = seen[projection.format(layer)][0].unflatten(-1, (HEADS, -1))  # [B, T, H, Dv]
            nothing = module(torch.zeros_like(z).flatten(-2))
            for h in range(HEADS):
                alone = torch.zeros_like(z)
                alone[:, :, h] = z[:, :, h]
                written = module(alone.flatten(-2)) - nothing
                if after:
                    post = model.get_submodule(after.format(layer))
                    written = frozen(post, seen[after.format(layer)][0], is_gemma)(written)
                parts.append(logit(x) - logit(x - written))
        return torch.stack(parts).unflatten(0, (len(layers), HEADS)), logit(x)
