"""Scores of every head on given tokens, through the hooked attention.

This file is the only place of the demo that reads attention.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from interp.demo.tokenizer import BOS_ID, SPECIAL_TOKENS
from interp.loading.load import load
from interp_kernels import KeyMass, OffsetMass


def head_scores(model: LlamaForCausalLM, tokens: Tensor, *, offset: int | None, start: int) -> Tensor:
    """Mean over the queries i >= start of A[i, i - offset], or of A[i, 0] where `offset` is None.

    `tokens` int64 [batch, T]; float32 [batch, layers, heads] comes back. Definitions of the three uses:
    previous token (offset 1, start 1), induction (offset N - 1, start N + 1 on BOS + N random tokens twice; Olsson et al.,
    arXiv 2209.11895), first-token sink (None, 0; Gu et al., arXiv 2410.10781: alpha_0).
    """
    queries = torch.arange(tokens.shape[1]) >= start
    if offset is None:
        first = torch.zeros(tokens.shape[1], 1)
        first[0] = 1.0
        probe = KeyMass(first, name="score", queries=queries, reduce="mean")
    else:
        probe = OffsetMass((offset,), name="score", queries=queries, reduce="mean")
    training = model.training
    model.eval()
    try:
        capture = load(model).capture(tokens, [probe])
    finally:
        model.train(training)
    return capture.stacked("score")[..., 0].transpose(0, 1)


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
