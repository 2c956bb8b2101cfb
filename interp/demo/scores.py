"""Scores of every head on given tokens, from transformers' own attention maps (short inputs only: the maps are dense).

This file is the only place of the demo that reads attention.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from interp.demo.tokenizer import BOS_ID, SPECIAL_TOKENS


def head_scores(model: LlamaForCausalLM, tokens: Tensor, *, offset: int | None, start: int) -> Tensor:
    """Mean over the queries i >= start of A[i, i - offset], or of A[i, 0] where `offset` is None.

    `tokens` int64 [batch, T]; float32 [batch, layers, heads] comes back. Definitions of the three uses:
    previous token (offset 1, start 1), induction (offset N - 1, start N + 1 on BOS + N random tokens twice; Olsson et al.,
    arXiv 2209.11895), first-token sink (None, 0; Gu et al., arXiv 2410.10781: alpha_0).
    """
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            maps = model(input_ids=tokens, output_attentions=True, use_cache=False).attentions
    finally:
        model.set_attn_implementation(implementation or "sdpa")
    per_layer = []
    for attention in maps:
        mass = attention[..., 0] if offset is None else attention.diagonal(-offset, -2, -1)
        # A diagonal's first entry is query `offset`.
        per_layer.append(mass[..., start - (offset or 0) :].mean(-1))
    return torch.stack(per_layer, 1)


def repeated_tokens(seed: int, count: int, span: int, vocabulary: int) -> Tensor:
    """BOS, then `span` random non-special tokens drawn without replacement, twice. int64 [count, 1 + 2 span]."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        drawn = generator.choice(vocabulary - len(SPECIAL_TOKENS), size=span, replace=False) + len(SPECIAL_TOKENS)
        rows.append(np.concatenate([[BOS_ID], drawn, drawn]))
    return torch.from_numpy(np.stack(rows))


def token_losses(model: LlamaForCausalLM, tokens: Tensor) -> Tensor:
    """Cross-entropy in nats of each token given those before it. int64 [batch, T] in, float32 [batch, T - 1] out."""
    with torch.no_grad():
        logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
