"""The trained two-layer model of the shared data as a model of TransformerLens, and sequences on which its answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

from tests.interp.bridges.bridges import native


def trained_two_layer(shared_data: Path) -> Any:
    weights = load_file(shared_data / "models" / "gbmi-induction-2l" / "model.safetensors")
    made = native(
        torch.float32,
        d_model=64,
        d_head=64,
        n_heads=1,
        n_ctx=8,
        d_vocab=26,
        attn_only=True,
        normalization_type=None,
        attention_dir="causal",
        init_weights=False,
    )
    made.load_state_dict(convert_tl_checkpoint(weights, made.cfg), strict=True)
    return made


def sequences(count: int) -> tuple[Tensor, Tensor]:
    """Eight distinct letters, then position 7 set to the letter of a position 0..5: ids [B, 8], and the letter after it [B]."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.stack([torch.randperm(26, generator=generator)[:8] for _ in range(count)])
    first = torch.randint(0, 6, (count,), generator=generator)
    everyone = torch.arange(count)
    ids[:, 7] = ids[everyone, first]
    return ids, ids[everyone, first + 1]
