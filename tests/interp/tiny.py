"""Tiny models with random weights, one for each architecture that interp promises, and what the tests know of each.

The windows, the soft cap and the sinks are stated here by hand, so that tests can say who sees whom without asking the code
under test or the library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

CONTEXT, VOCABULARY, LAYERS, HEADS = 256, 61, 2, 4

WIDTHS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
COMMON = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
GROUPED = {**WIDTHS, **COMMON, "num_key_value_heads": 2}
WINDOW = 7
ALTERNATING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
SCORING = ("q_proj", "k_proj", "c_attn", "query", "key.")
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 2.0,
    "original_max_position_embeddings": CONTEXT // 2,
    "truncate": False,
}


@dataclass(frozen=True)
class Architecture:
    """A configuration, and what is known of the model that it makes.

    windows       each layer's sliding window: a query sees so many keys, itself included; None: all of them
    kernel        the model's own fused path, "eager" where the library refuses or SDPA leaves out the soft cap
    is_rotary     positions are relative, so that inputs may be longer than the context
    """

    name: str
    config: str
    arguments: dict[str, Any]
    model: str
    windows: tuple[int | None, ...] = (None,) * LAYERS
    kernel: str = "sdpa"
    kv_heads: int = HEADS
    is_rotary: bool = True
    is_causal: bool = True

    def build(self, *, seed: int = 0, kernel: str | None = None, **changes: Any) -> PreTrainedModel:
        """The model, in evaluation mode. Weights are wide enough for attention that is far from uniform."""
        config = getattr(transformers, self.config)(**{**self.arguments, **changes})
        config._attn_implementation = kernel or self.kernel
        config._experts_implementation = "eager"  # of the other ones, on CPU, not all take float64
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = getattr(transformers, self.model)(config).eval()
        return randomised(model, seed)


def randomised(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """``model`` with new weights: unit-scale activations, queries and keys wide enough to point somewhere."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            drawn = torch.randn(weight.shape, generator=generator).to(weight.dtype)
            if name.endswith("sinks"):
                weight.copy_(drawn)
            elif weight.ndim < 2:
                weight.add_(0.1 * drawn + (1.0 if "q_norm" in name or "k_norm" in name else 0.0))
            elif "embed" in name or "wte" in name or "wpe" in name:
                weight.copy_(drawn)
            else:
                scale = next((2.0 + 2.0 * (part == "c_attn") for part in SCORING if part in name), 1.0)
                weight.copy_(drawn * scale / weight.shape[-1] ** 0.5)
    return model


ARCHITECTURES = {
    each.name: each
    for each in (
        Architecture("llama", "LlamaConfig", GROUPED, "LlamaForCausalLM", kv_heads=2),
        Architecture(
            "mistral",
            "MistralConfig",
            GROUPED | {"sliding_window": WINDOW},
            "MistralForCausalLM",
            (WINDOW, WINDOW),
            kv_heads=2,
        ),
        Architecture("qwen2", "Qwen2Config", GROUPED, "Qwen2ForCausalLM", kv_heads=2),
        Architecture("qwen3", "Qwen3Config", GROUPED | {"head_dim": 16}, "Qwen3ForCausalLM", kv_heads=2),
        Architecture(
            "gemma2",
            "Gemma2Config",
            GROUPED | ALTERNATING | {"head_dim": 8, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 4.0},
            "Gemma2ForCausalLM",
            (WINDOW, None),
            kernel="eager",
            kv_heads=2,
        ),
        Architecture(
            "gemma3",
            "Gemma3TextConfig",
            GROUPED | ALTERNATING | {"head_dim": 8, "query_pre_attn_scalar": 8},
            "Gemma3ForCausalLM",
            (WINDOW, None),
            kv_heads=2,
        ),
        Architecture(
            "gpt2",
            "GPT2Config",
            {**COMMON, "n_embd": 32, "n_inner": 48, "n_layer": LAYERS, "n_head": HEADS},
            "GPT2LMHeadModel",
            is_rotary=False,
        ),
        Architecture("gpt_neox", "GPTNeoXConfig", WIDTHS | COMMON, "GPTNeoXForCausalLM"),
        Architecture("opt", "OPTConfig", WIDTHS | COMMON | {"ffn_dim": 48}, "OPTForCausalLM", is_rotary=False),
        Architecture("phi", "PhiConfig", WIDTHS | COMMON, "PhiForCausalLM"),
        Architecture(
            "gpt_oss",
            "GptOssConfig",
            # Every token goes to every expert: which one is chosen would jump with the last bit of an activation.
            GROUPED
            | ALTERNATING
            | {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 2, "rope_parameters": YARN},
            "GptOssForCausalLM",
            (WINDOW, None),
            kernel="eager",
            kv_heads=2,
        ),
    )
}
NAMES = tuple(ARCHITECTURES)

BERT = Architecture("bert", "BertConfig", WIDTHS | COMMON, "BertModel", is_rotary=False, is_causal=False)


def tiny_t5() -> PreTrainedModel:
    """An encoder-decoder with two layers of four heads on either side."""
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": LAYERS, "num_heads": HEADS}
    config = transformers.T5Config(**COMMON, **sizes, decoder_start_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.T5ForConditionalGeneration(config).eval()


def token_ids(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Random ordinary token ids."""
    return torch.randint(3, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def right_padded(lengths: tuple[int, ...], seed: int = 0) -> tuple[list[list[int]], Tensor, Tensor]:
    """Sequences of these lengths as lists, and the same as ids [B, T] (0 at padding) with keep [B, T]."""
    ids = token_ids((len(lengths), max(lengths)), seed)
    keep = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return [row[:n].tolist() for row, n in zip(ids, lengths, strict=True)], ids * keep, keep


def who_sees_whom(architecture: Architecture, layer: int, keep: Tensor) -> Tensor:
    """m [B, T, T] of one layer, from the definition: keys not ahead, not beyond the window, not padding."""
    t = keep.shape[1]
    i, j = torch.arange(t)[:, None], torch.arange(t)[None]
    visible = j <= i if architecture.is_causal else torch.ones(t, t, dtype=torch.bool)
    window = architecture.windows[layer]
    if window is not None:
        visible = visible & (i - j < window)
    return visible & keep[:, None, :]
