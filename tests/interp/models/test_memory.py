"""No tensor of T x T elements is made, masks included: the largest storage of a capture grows with T."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

import interp
from interp.inputs.batch import Batch
from interp_kernels import Probe
from tests.interp.tiny import ARCHITECTURES, right_padded

T, HEADS = 3000, 2
SQUARE = T * T  # bytes of the smallest map or mask: bool, one head


class Largest(TorchDispatchMode):
    """Records the largest storage, in bytes, that an operation returns while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.operation = 0, ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.untyped_storage().nbytes() > self.bytes:
                self.bytes, self.operation = x.untyped_storage().nbytes(), str(func)
        return out


def long_model(name: str) -> PreTrainedModel:
    changes: dict[str, Any] = {}
    # One layer; of two layer types, the windowed one.
    if "layer_types" in ARCHITECTURES[name].arguments:
        changes["layer_types"] = ["sliding_attention"]
    key = "n_layer" if name == "gpt2" else "num_hidden_layers"
    heads = {"n_head": HEADS} if name == "gpt2" else {"num_attention_heads": HEADS, "num_key_value_heads": 1}
    return ARCHITECTURES[name].build(**{key: 1}, **heads, max_position_embeddings=T, **changes)


def every_statistic() -> list[Probe]:
    labels = torch.arange(T) % 50
    return [
        interp.Entropy(),
        interp.Peak(),
        interp.KeyMass(torch.rand(T, 2)),
        interp.LabelMatch(labels, labels, strict=True),
        interp.OffsetMass((0, 1, 40)),
        interp.Distance(),
        interp.Received(normalize=True),
        interp.Entropy(name="mean", reduce="mean"),
    ]


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss"])
def test_a_capture_makes_nothing_of_the_size_of_the_map(name: str):
    # Llama: padding, all keys. Gemma 2, gpt-oss: a sliding window, soft cap and sinks.
    _, ids, keep = right_padded((T, T - 1000) if name == "llama" else (T,))
    model = interp.load(long_model(name))
    with Largest() as largest:
        capture = model.capture(Batch(ids, keep), every_statistic())
    assert len(capture.stats) == 9
    assert 0 < largest.bytes < SQUARE, f"{largest.operation} made {largest.bytes:,} bytes"


def test_lazy_maps_hold_nothing_of_the_size_of_the_map():
    model = interp.load(long_model("llama"))
    _, ids, _ = right_padded((T,))
    with Largest() as largest:
        lazy = model.maps(ids)[0]
        row = lazy.rows([T - 1])
    assert row.shape == (1, HEADS, 1, T)
    assert largest.bytes < SQUARE, f"{largest.operation} made {largest.bytes:,} bytes"


def test_the_models_own_eager_attention_is_seen_by_this_measure():
    model = long_model("llama")
    model.config._attn_implementation = "eager"
    _, ids, keep = right_padded((T,))
    with Largest() as largest, torch.no_grad():
        model.base_model(input_ids=ids, attention_mask=keep.long(), use_cache=False)
    assert largest.bytes >= 4 * HEADS * SQUARE


def test_the_librarys_padding_mask_is_seen_by_this_measure():
    model = long_model("llama")
    _, ids, keep = right_padded((T, T - 1000))
    with Largest() as largest, torch.no_grad():
        model.base_model(input_ids=ids, attention_mask=keep.long(), use_cache=False)
    assert largest.bytes >= SQUARE
