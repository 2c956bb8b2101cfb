"""Models and inputs on which edits are compared with dense ones, in float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, T5Config, T5ForConditionalGeneration

import interp
from tests.interp.edits.dense_edits import Layer, Run, dense_run
from tests.interp.tiny import ARCHITECTURES, BERT, COMMON, HEADS, LAYERS, randomised, token_ids

T = 24
PADDED = 6
"""Columns of padding of the second sequence."""

T5: dict[str, Any] = {
    **{key: value for key, value in COMMON.items() if key != "max_position_embeddings"},
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": LAYERS,
    "num_decoder_layers": LAYERS,
    "num_heads": HEADS,
    "decoder_start_token_id": 0,
}
DECODER_T = 15


@dataclass(frozen=True, eq=False)
class Case:
    """A model in float64, hooked, with two sequences, the second padded on the left (a decoder) or on the right."""

    model: PreTrainedModel
    hooked: interp.HookedModel
    inputs: Mapping[str, Tensor]
    layers: Mapping[Layer, str]

    @property
    def keep(self) -> Tensor:
        return self.inputs["attention_mask"].bool()

    def dense(self, **what: Any) -> tuple[Run, Tensor]:
        """The run with dense edits, and its logits or last hidden state."""
        with dense_run(self.model, self.layers, **what) as run:
            return run, self.model(**self.hooked.batch(self.inputs).arguments, use_cache=False)[0]

    def heads(self, *heads: int) -> dict[Layer, tuple[int, ...]]:
        """These heads of every layer."""
        return dict.fromkeys(self.layers, heads)


@cache
def case(name: str) -> Case:
    if name == "t5":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model: Any = randomised(T5ForConditionalGeneration(T5Config(**T5)).eval()).double()
    else:
        model = (BERT if name == "bert" else ARCHITECTURES[name]).build(kernel="eager").double()
    keep = torch.ones(2, T, dtype=torch.int64)
    if name in ("bert", "t5"):
        keep[1, T - PADDED :] = 0
    else:
        keep[1, :PADDED] = 0
    inputs = {"input_ids": token_ids((2, T), seed=4), "attention_mask": keep}
    if name == "t5":
        inputs["decoder_input_ids"] = token_ids((2, DECODER_T), seed=5)
    return Case(model, interp.load(model), inputs, paths(name))


def paths(name: str) -> dict[Layer, str]:
    """Where the attention of each layer is, written down by hand."""
    if name == "t5":
        blocks = {
            "encoder": "layer.0.SelfAttention",
            "decoder": "layer.0.SelfAttention",
            "cross": "layer.1.EncDecAttention",
        }
        return {
            f"{stack}.{number}": f"{'encoder' if stack == 'encoder' else 'decoder'}.block.{number}.{attention}"
            for stack, attention in blocks.items()
            for number in range(LAYERS)
        }
    pattern = {"gpt2": "transformer.h.{}.attn", "bert": "encoder.layer.{}.attention.self"}
    return {number: pattern.get(name, "model.layers.{}.self_attn").format(number) for number in range(LAYERS)}
