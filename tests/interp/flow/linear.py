"""A model whose logits are linear in its input embeddings: uniform attention over everything, and no norm or nonlinearity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import CausalLMOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

WIDTH, VOCABULARY = 8, 31


class LinearConfig(PreTrainedConfig):
    model_type = "linear_for_tests"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.vocab_size, self.hidden_size, self.num_hidden_layers, self.num_attention_heads = VOCABULARY, WIDTH, 1, 2
        self.max_position_embeddings = 64


class LinearAttention(nn.Module):
    """Queries are 0, so that every key that is seen gets the same weight."""

    is_causal = True

    def __init__(self, config: LinearConfig) -> None:
        super().__init__()
        self.config, self.layer_idx = config, 0
        self.v_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.o_proj = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor, attention_mask: Any) -> Tensor:
        v = self.v_proj(x).unflatten(-1, (2, -1)).transpose(1, 2)
        attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        output, _ = attend(self, torch.zeros_like(v), v, v, attention_mask, dropout=0.0, scaling=1.0)
        return self.o_proj(output.flatten(-2))


class LinearModel(PreTrainedModel):
    config_class = LinearConfig
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: LinearConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.attention = LinearAttention(config)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> CausalLMOutput:
        x = self.embed_tokens(input_ids)
        mask = create_causal_mask(
            config=self.config, inputs_embeds=x, attention_mask=attention_mask, past_key_values=None, position_ids=None
        )
        return CausalLMOutput(logits=self.lm_head(x + self.attention(x, mask)))


def linear_model() -> LinearModel:
    """With weights at unit scale."""
    model = LinearModel(LinearConfig(attn_implementation="sdpa")).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return model
