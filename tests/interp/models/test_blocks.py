"""Blocks are told by where the attention stands, in models of transformers and in what bridges of TransformerLens hold."""

from __future__ import annotations

import pytest
import torch
import transformers

import interp
from interp.captures.residual import residual_stream
from interp.errors import InputError
from interp.models.blocks import block_paths
from tests.interp.tiny import COMMON, LAYERS, WIDTHS, token_ids

IDS = token_ids((2, 12))


def test_a_block_is_the_outermost_numbered_component(own_model):
    host = interp.load(own_model("llama")).host
    assert block_paths(host.inner, host.layers) == {n: f"model.layers.{n}" for n in range(LAYERS)}


def test_layers_that_share_a_module_share_a_block():
    config = transformers.AlbertConfig(**WIDTHS, **COMMON, embedding_size=32)
    host = interp.load(transformers.AlbertModel(config).eval()).host
    assert block_paths(host.inner, host.layers) == dict.fromkeys(range(LAYERS), "encoder.albert_layer_groups.0")


def test_blocks_of_a_bridge_are_those_of_what_it_holds():
    """A native bridge calls "blocks.0" what stands at "layers.0" in the module that it holds."""
    pytest.importorskip("transformer_lens")
    from tests.interp.bridges.bridges import native

    model = interp.load(native(torch.float32))
    assert block_paths(model.host.inner, model.host.layers) == {n: f"layers.{n}" for n in range(LAYERS)}
    assert len(interp.heads.sinks(model, IDS).stream) == LAYERS + 1
    with pytest.raises(InputError, match="is a bridge of TransformerLens, whose residual stream is not followed"):
        residual_stream(model, model.batch(IDS))
