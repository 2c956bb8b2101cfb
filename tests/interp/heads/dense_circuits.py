"""Value-output circuits by hand: V x V matrices in float64 from weights taken by name. Shares no code with interp."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.interp.tiny import HEADS


def centred(width: int) -> Tensor:
    """What LayerNorm does to a vector before it is scaled: the mean is taken out."""
    return torch.eye(width, dtype=torch.float64) - 1.0 / width


def full_circuits(model: PreTrainedModel, name: str, layer: int) -> list[Tensor]:
    """G[s, t] of each head, [V, V] in float64: what attending to s adds to the logit of t, but for a positive factor."""
    w = {key: value.detach().double() for key, value in model.state_dict().items()}
    width = model.config.hidden_size
    one = torch.eye(width, dtype=torch.float64)
    if name in ("llama", "gemma2"):
        plus = 1.0 if name == "gemma2" else 0.0
        at = f"model.layers.{layer}."
        before = one * (w[at + "input_layernorm.weight"] + plus)
        value = w[at + "self_attn.v_proj.weight"].T  # [d, Hkv Dv]
        out = w[at + "self_attn.o_proj.weight"].T  # [H Dv, d]
        after = one * (w[at + "post_attention_layernorm.weight"] + plus) if name == "gemma2" else one
        last = one * (w["model.norm.weight"] + plus)
        embedding, head = w["model.embed_tokens.weight"], model.get_output_embeddings().weight.detach().double()
    elif name == "gpt2":
        at = f"transformer.h.{layer}."
        before = centred(width) * w[at + "ln_1.weight"]
        value = w[at + "attn.c_attn.weight"][:, 2 * width :]
        out, after = w[at + "attn.c_proj.weight"], one
        last = centred(width) * w["transformer.ln_f.weight"]
        embedding = head = w["transformer.wte.weight"]
    else:
        at = f"gpt_neox.layers.{layer}."
        before = centred(width) * w[at + "input_layernorm.weight"]
        # Rows of the fused projection: each head's q, k and v, one after another.
        fused = w[at + "attention.query_key_value.weight"].unflatten(0, (HEADS, 3, -1))
        value = fused[:, 2].flatten(0, 1).T
        out, after = w[at + "attention.dense.weight"].T, one
        last = centred(width) * w["gpt_neox.final_layer_norm.weight"]
        embedding, head = w["gpt_neox.embed_in.weight"], w["lm_head.weight"]
    values = value.unflatten(1, (-1, out.shape[0] // HEADS)).movedim(1, 0)  # [Hkv, d, Dv]
    outs = out.unflatten(0, (HEADS, -1))  # [H, Dv, d]
    group = HEADS // len(values)
    return [embedding @ before @ values[h // group] @ outs[h] @ after @ last @ head.T for h in range(HEADS)]


def score_of(full: Tensor) -> float:
    """Sum of real parts over sum of absolute values of all V eigenvalues."""
    values = np.linalg.eigvals(full.numpy())
    return float(values.real.sum() / np.abs(values).sum())


def rank_of(full: Tensor, source: int, target: int) -> int:
    return int((full[source] > full[source, target]).sum())
